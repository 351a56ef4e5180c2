"""The lines of a job script that start the ranks within Apptainer, or SingularityCE, which takes the same words."""

from __future__ import annotations

import shlex

from nemo_workflow.config import containers
from nemo_workflow.config.plan import Plan
from nemo_workflow.launch.corpus_plan import CorpusPlan

WITHIN = '"${nw_within[@]}"'  # srun's task is Apptainer's own process, which hands a signal on to the rank
# The shell's own: within an image made from docker:// they would win over the image's and lead its Python astray.
HOSTS_OWN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "CUDA_HOME", "CUDA_PATH", "LD_PRELOAD")

PULL = """nw_source=@source@
if [ ! -e "$nw_image" ]; then   # once for all ranks and later jobs
  mkdir -p "${nw_image%/*}"
  export APPTAINER_CACHEDIR=${APPTAINER_CACHEDIR:-${nw_image%/*}/cache}
  export SINGULARITY_CACHEDIR=${SINGULARITY_CACHEDIR:-$APPTAINER_CACHEDIR}
  nw_part=$nw_image.$SLURM_JOB_ID
  if ! "$nw_apptainer" pull --force "$nw_part" "$nw_source" || ! mv "$nw_part" "$nw_image"; then
    rm -f "$nw_part"
    nw_fail "--container-image: $nw_source could not be pulled on $(hostname): where there is a network, apptainer pull $nw_image $nw_source"
  fi
fi
"""
LINES = """nw_phase=container
nw_fail() {   # the text goes to where `runs status` looks for a rank's error
  echo "$1" >&2
  mkdir -p "$nw_logs"
  printf '%s\\n%s\\n' "$(date +%s)" "$1" >"$nw_logs/rank0.error"
  exit 1
}
nw_apptainer=$(command -v apptainer || command -v singularity)
if [ -z "$nw_apptainer" ]; then
  nw_fail "--container-runtime apptainer: neither apptainer nor singularity is on the PATH of $(hostname); load its module in --setup-file"
fi
nw_image=@image@
@pull@case ${nw_apptainer##*/} in apptainer) nw_prefix=APPTAINERENV ;; *) nw_prefix=SINGULARITYENV ;; esac
nw_kept=(@kept@)   # --container-env: the job's value, whatever the image sets
for nw_name in "${nw_kept[@]}"; do
  if [ -n "${!nw_name+set}" ]; then export "${nw_prefix}_$nw_name=${!nw_name}"; fi
done
unset @unset@
export PYTHONNOUSERSITE=1   # the home folder is seen inside, and ~/.local is of another Python
nw_within=("$nw_apptainer" exec@nv@ --pwd "$nw_attempt"
@binds@
  "$nw_image")
"""


def lines(plan: Plan | CorpusPlan, mounts: list[str]) -> str:
    """The lines that find Apptainer and the image, and set `nw_within`, what stands before a rank's command."""
    image = containers.apptainer_image(plan.settings)
    kept = plan.settings.container_env
    values = {
        "pull": PULL.replace("@source@", shlex.quote(image.source)) if image.source else "",
        "image": shlex.quote(image.path),
        "kept": " ".join(kept),
        "unset": " ".join(name for name in HOSTS_OWN if name not in kept),
        "nv": " --nv" if plan.accelerator == "gpu" else "",
        "binds": "\n".join(f"  --bind {shlex.quote(mount)}" for mount in mounts),
    }
    text = LINES
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
