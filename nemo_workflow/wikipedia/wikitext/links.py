"""Internal and external links: their text stays, files, categories and links to other languages go."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nemo_workflow.wikipedia.wikitext.nested import GONE, replace_pairs

# Names of the file and category namespaces that a dump's header does not list: English and the old names of large wikis.
_ALIASES = (
    "file|image|category|datei|bild|kategorie|fichier|catégorie|archivo|imagen|categoría|immagine|categoria|ficheiro"
    "|imagem|arquivo|файл|изображение|категория|plik|grafika|kategoria|bestand|afbeelding|categorie|tập tin|hình"
    "|thể loại|fil|kategori|ملف|صورة|تصنيف|ファイル|画像|カテゴリ|파일|그림|분류|文件|檔案|档案|图像|圖像|图片|圖片|檔|圖"
    "|分类|分類|類"
)
# Codes of the Wikipedias: a link that starts with one is a link to the same article in that language.
_LANGUAGES = """
    aa ab ace ady af ak als alt am ami an ang ann anp ar arc ary arz as ast atj av avk awa ay az azb ba ban bar
    bat-smg bbc bcl bdr be be-tarask be-x-old bew bg bh bi bjn blk bm bn bo bpy br bs btm bug bxr ca cbk-zam cdo ce ceb ch
    chr chy ckb co cr crh cs csb cu cv cy da dag de dga din diq dsb dtp dty dv dz ee el eml en eo es et eu ext fa fat
    ff fi fiu-vro fj fo fon fr frp frr fur fy ga gag gan gcr gd gl glk gn gom gor got gpe gsw gu guc gur guw gv ha hak haw
    he hi hif hr hsb ht hu hy hyw ia iba id ie ig igl ik ilo inh io is it iu ja jam jbo jv ka kaa kab kbd kbp kcg kg kge ki
    kk kl km kn knc ko koi krc ks ksh ku kus kv kw ky la lad lb lbe lez lfn lg li lij lld lmo ln lo lt ltg lv lzh mad mai
    map-bms mdf mg mhr mi min mk ml mn mni mnw mos mr mrj ms mt mwl my myv mzn nah nan nap nb nds nds-nl ne new nia nl nn no
    nov nqo nr nrm nso nup nv ny oc olo om or os pa pag pam pap pcd pcm pdc pfl pi pih pl pms pnb pnt ps pt pwn qu rm rmy rn
    ro roa-rup roa-tara rsk ru rue rup rw sa sah sat sc scn sco sd se sg sgs sh shi shn shy si simple sk skr sl sm smn sn so
    sq sr srn ss st stq su sv sw syl szl szy ta tay tcy tdd te tet tg th ti tig tk tl tly tn to tpi tr trv ts tt tum tw ty
    tyv udm ug uk ur uz ve vec vep vi vls vo vro wa war wo wuu xal xh xmf yi yo yue za zea zgh zh zh-classical zh-min-nan
    zh-yue zu
"""
_MEDIA = re.compile(
    r"\.(?:jpe?g|png|svg|gif|tiff?|webp|og[gva]|opus|webm|mp[34]|wav|flac|mid|pdf|djvu|stl|xcf)\s*$", re.I
)

_SCHEME = r"(?:(?:https?|ftps?|sftp|ircs?|gopher|git|svn|ssh|telnet|nntp|gemini):)?//|(?:mailto|news|tel|sips?|xmpp|urn|geo|magnet|bitcoin):"
# the lookahead, the letters that a scheme begins with, spares most brackets the list of schemes
_EXTERNAL = re.compile(rf"\[(?=[/bfghimnstux])(?:{_SCHEME})[^\s\[\]<>\"]*+[ \t\u3000]*+([^\[\]\n]*+)\]")


class Links:
    """Resolves the links of one wiki. `names` are its own names for the file and category namespaces."""

    def __init__(self, names: Iterable[str] = ()):
        self.hidden = {*_ALIASES.split("|"), *_LANGUAGES.split(), *(name.casefold() for name in names)}

    def resolve(self, text: str) -> str:
        """Replace each link by the text that a reader sees, or by nothing; brackets without a partner stay."""
        if "[" not in text:
            return text
        text = replace_pairs(_EXTERNAL.sub(r"\1", text), "[[", "]]", self._shown)
        return _EXTERNAL.sub(r"\1", text) if "[" in text else text  # those with a link in their text

    def _shown(self, body: str) -> str:
        target, _, label = body.partition("|")
        if ":" in target:
            prefix, _, rest = target.partition(":")
            prefix = prefix.strip().replace("_", " ").casefold()
            if not prefix:
                target = rest
            elif prefix in self.hidden or (prefix != "media" and _MEDIA.search(target)):
                return GONE
        return label or target.strip()
