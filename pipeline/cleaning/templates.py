"""Render Wikipedia's common inline templates as plain text: `{{convert|5|km|mi}}` is `5 km`.

Other templates are dropped, because most are boxes, notes to editors, or navigation.
"""

import calendar
import re
from collections.abc import Callable

# From positional arguments to text. Names are lower case, without `template:`, and with single spaces.
Renderer = Callable[[list[str]], str]

INFOBOX_PREFIXES = ("infobox", "taxobox", "automatic taxobox", "speciesbox", "geobox", "chembox", "drugbox", "starbox")
COORDINATES = {"coord", "coords", "coordinates", "coor dms", "coor dm", "coor d", "coor title dms"}
_DISAMBIGUATIONS = {"dab", "disamb", "hndis", "geodis", "numberdis", "roaddis", "schooldis", "mil-unit-dis", "surname"}

_UNITS = {
    "c": "°C",
    "f": "°F",
    "k": "K",
    "km2": "km²",
    "m2": "m²",
    "m3": "m³",
    "sqmi": "sq mi",
    "sqft": "sq ft",
    "cuft": "cu ft",
    "kph": "km/h",
    "acre": "acres",
    "mi": "miles",
    "ft": "feet",
    "in": "inches",
}
_SOUND_LABELS = {"lang", "pron", "audio", "local", "also", "us", "uk", "usalso", "ukalso"}
_RANGES = {
    "to": " to ",
    "-": "–",
    "–": "–",
    "and": " and ",
    "or": " or ",
    "x": " × ",
    "by": " by ",
    "±": " ± ",
    "+/-": " ± ",
}


def is_disambiguation(name: str) -> bool:
    return "disambig" in name or name in _DISAMBIGUATIONS


def render(name: str, arguments: list[str], named: dict[str, str]) -> str | None:
    """The text of a template, or None if the template is unknown."""
    if name == "val":
        return _value(arguments, named)
    renderer = _RENDERERS.get(name)
    if renderer is None and name.startswith(("lang-", "langx", "ipa-")):
        renderer = _second if name == "langx" else _first
    if renderer is None:
        return None
    text = renderer([argument.strip() for argument in arguments])
    return text[:1].lower() + text[1:] if "lc" in named else text


def _first(arguments: list[str]) -> str:
    return arguments[0] if arguments else ""


def _second(arguments: list[str]) -> str:
    return arguments[1] if len(arguments) > 1 else ""


def _last(arguments: list[str]) -> str:
    return arguments[-1] if arguments else ""


def _joined(separator: str) -> Renderer:
    return lambda arguments: separator.join(filter(None, arguments))


def _constant(text: str) -> Renderer:
    return lambda arguments: text


def _around(before: str, after: str = "") -> Renderer:
    return lambda arguments: f"{before}{arguments[0]}{after}" if arguments else ""


def _convert(arguments: list[str]) -> str:
    """`convert|5|to|10|km|mi` → `5 to 10 km`: the original value without the conversion."""
    text = ""
    for argument in arguments:
        if re.match(r"[-−+]?[\d.,]+(?:[+/⁄]\d+)*$", argument):
            text += argument.replace("+", " ", 1) if "/" in argument else _with_commas(argument)
        elif argument in _RANGES and text:
            text += _RANGES[argument]
        else:
            return f"{text} {_UNITS.get(argument.lower(), argument)}" if text else ""
    return text


def _with_commas(number: str) -> str:
    return f"{int(number):,}" if number.isdigit() else number


def _value(arguments: list[str], named: dict[str, str]) -> str:
    """`val|6.2|0.1|e=18|u=C` → `6.2 ± 0.1×10^18 C`."""
    number = " ± ".join(filter(None, arguments[:2]))
    power = f"×10^{named['e']}" if "e" in named else ""
    unit = next((f" {named[key]}" for key in ("u", "ul", "up", "upl") if key in named), "")
    return f"{number}{power}{unit}"


def _fraction(arguments: list[str]) -> str:
    whole = f"{arguments[0]} " if len(arguments) == 3 else ""
    return whole + "/".join(arguments[-2:])


def _japanese(arguments: list[str]) -> str:
    english, *others = arguments or [""]
    inside = ", ".join(other for other in others[:2] if other)
    return f"{english} ({inside})" if english and inside else english or inside


def _english_sounds(arguments: list[str]) -> str:
    """`IPAc-en|lang|ˌ|æ|l|ə` → `/ˌælə/`."""
    sounds = "".join(sound for sound in arguments if "." not in sound and sound.lower() not in _SOUND_LABELS)
    return f"/{sounds}/" if sounds else ""


def _date(arguments: list[str]) -> str:
    """`birth date|1879|3|14` → `March 14, 1879`; `1879|3` → `March 1879`; anything else unchanged."""
    year, month, day, *_ = [*arguments, "", "", ""]
    if not (month.isdigit() and 1 <= int(month) <= 12):
        return " ".join(filter(None, (day, month, year)))
    name = calendar.month_name[int(month)]
    return f"{name} {int(day)}, {year}" if day.isdigit() else f"{name} {year}"


def _old_style_date(arguments: list[str]) -> str:
    return ", ".join(arguments[:2])


def _lines(arguments: list[str]) -> str:
    return "\n" + "\n".join(f"* {argument}" for argument in arguments if argument) + "\n"


def _paragraph(arguments: list[str]) -> str:
    return f"\n\n{arguments[0]}\n\n" if arguments else ""


_GROUPS: list[tuple[str, Renderer]] = [
    (
        "nowrap nobr nowraplinks small smaller big larger em strong bold italic italics mvar math nobold noitalic "
        "midsize abbr tooltip hover-title sc smallcaps allcaps unicode polytonic music keypress key code mono tt samp "
        "var kbd not-a-typo notatypo proper-name visible-anchor vanchor anchored-text rtl-lang allow-wrap nomarkup "
        "flag flagcountry flagu formatnum gaps char linktext wikt-lang no-italic no-bold avoid-wrap "
        "underline u railgauge track-gauge",
        _first,
    ),
    ("lang color colored font-color fontcolor wikt interlanguage-link-text resize nts", _second),
    ("transl transliteration translit script", _last),
    ("ipa ipa-all ipalink ipablink ipaslink", _last),
    ("ipac-en", _english_sounds),
    ("convert cvt", _convert),
    ("frac fraction sfrac", _fraction),
    ("circa c. ca", _around("c. ")),
    ("floruit fl.", _around("fl. ")),
    ("reign r.", lambda arguments: "r. " + "–".join(arguments[:2])),
    ("as-of asof", lambda arguments: "As of " + _date(arguments)),
    ("e", _around("×10^")),
    ("sup", _around("^")),
    ("sub", _around("_")),
    ("sqrt radic", _around("√")),
    ("us$ usd", _around("US$")),
    ("gbp £ pound", _around("£")),
    ("eur € euro", _around("€")),
    ("a$ aud", _around("A$")),
    ("inr indian-rupee", _around("₹")),
    ("chem chem2", _joined("")),
    ("uss", _around("USS ")),
    ("hms", _around("HMS ")),
    ("ss", _around("SS ")),
    ("ms", _around("MS ")),
    ("rms", _around("RMS ")),
    ("hmas", _around("HMAS ")),
    ("nihongo", _japanese),
    ("hlist", _joined(", ")),
    ("ubl unbulleted-list bulleted-list blist", _lines),
    ("quote blockquote cquote quotation bquote centered-pull-quote poemquote poem-quote quote-frame", _paragraph),
    ("birth-date birth-date-and-age death-date death-date-and-age start-date end-date dts date film-date", _date),
    ("oldstyledate oldstyledatedy oldstyledateny", _old_style_date),
    ("ill interlanguage-link", _first),
    ("angle-bracket grapheme vr angbr", _around("⟨", "⟩")),
    ("columns-list", lambda arguments: f"\n{_last(arguments)}\n"),
    ("'s", _constant("'s")),
    ("ndash en-dash", _constant("–")),
    ("mdash em-dash mdashb", _constant("—")),
    ("snd spaced-ndash spaced-en-dash snds sndash", _constant(" – ")),
    ("spaced-mdash smdash", _constant(" — ")),
    ("nbsp space sp thinsp hair-space", _constant(" ")),
    ("· • dot bullet middot", _constant(" · ")),
    ("' apostrophe", _constant("'")),
    ("= equals", _constant("=")),
    ("! pipe", _constant("|")),
    ("pi", _constant("π")),
    ("br crlf", _constant("\n")),
]
_RENDERERS = {name.replace("-", " "): renderer for names, renderer in _GROUPS for name in names.split()}
_RENDERERS |= {"hover title": _second, "ipac-en": _english_sounds}
