# source setup_device.sh KIT [PLACE]: lay a kit of packages over a bare, offline GPU machine, once; about 2 s.
#
# KIT holds python-packages-*.tar.xz (pip --target trees), transformer-engine.tar.xz (a folder te/), its extension
# transformer_engine_torch*.so, wheels (*.whl) of what is still missing, data.tar.xz and small.tar.xz (each with dataset/ and
# tokenizer/: one of 128,256 entries, one of 4,096). All of it is unpacked below PLACE (default /tmp/nemo-kit) side by side, and PYTHONPATH is
# set for this shell. A kit in parts: source it once a part.
kit=$1 place=${2:-/tmp/nemo-kit}
began=$(date +%s%N)
mkdir -p "$place"/{packages,site,te,data,small}
unpack() { # ARCHIVE FOLDER: once, however often this file is sourced
  [ -e "$place/.$(basename "$1")" ] || # one of the trees stands below a folder ov/
    { xz -dc -T0 "$1" | tar x -C "$2" --transform='s,^ov/,,' && touch "$place/.$(basename "$1")"; }
}
jobs=()
for archive in "$kit"/python-packages-*.tar.xz; do [ -e "$archive" ] && { unpack "$archive" "$place/packages" & jobs+=($!); }; done
[ -e "$kit/transformer-engine.tar.xz" ] && { unpack "$kit/transformer-engine.tar.xz" "$place" & jobs+=($!); }
for data in data small; do
  [ -e "$kit/$data.tar.xz" ] && { unpack "$kit/$data.tar.xz" "$place/$data" & jobs+=($!); }
done
for wheel in "$kit"/*.whl; do [ -e "$wheel" ] && { python3 -m zipfile -e "$wheel" "$place/site" & jobs+=($!); }; done
[ ${#jobs[@]} -eq 0 ] || wait "${jobs[@]}"
for folder in packages/{nemo,megatron,lightning,nemo_run,fiddle,torchx,modelopt,nvidia_resiliency_ext,hydra} te; do
  # once, on all cores, or every process of the first wave does it for itself
  [ -e "$place/.compiled" ] || { [ -d "$place/$folder" ] && python3 -m compileall -q -j 0 "$place/$folder" >/dev/null & }
done
wait && touch "$place/.compiled"
for extension in "$kit"/transformer_engine_torch*.so; do
  [ -e "$extension" ] || continue
  cp -n "$extension" "$place/te/"
  mkdir -p "$place/te/transformer_engine_torch-2.9.0.dist-info"
  printf 'Metadata-Version: 2.1\nName: transformer_engine_torch\nVersion: 2.9.0\n' >"$place/te/transformer_engine_torch-2.9.0.dist-info/METADATA"
done
export PYTHONPATH="$place/packages:$place/te:$place/site${PYTHONPATH:+:$PYTHONPATH}"
export TORCH_CUDA_ARCH_LIST=9.0 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
echo "kit ready after $((($(date +%s%N) - began) / 1000000)) ms: $(ls "$place")"
