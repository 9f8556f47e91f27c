"""Invented and real names that are not in the encyclopedia, so that a model can learn to say that it does not know.

    names = unknown_names(tables, seed=0)
    names.for_training["place"].real, names.for_questions["place"].invented

A table refers to its list with `# unknown = place`. No name is in both splits, and none is in a table.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.demo.tables import Table, with_article

# Real names that are not in any table, separated by semicolons.
REAL = {
    "place": "Texas; California; Bavaria; Tuscany; Catalonia; Brittany; Normandy; Tasmania; Quebec; Ontario; Siberia; "
    "Andorra; Liechtenstein; San Marino; Brunei; Bahrain; Barbados; Bhutan; "
    "Nauru; Tuvalu; Palau; Kiribati; Samoa; Tonga; Vanuatu; Florida; Nevada; Ohio; Oregon; Utah; Virginia; Saxony; "
    "Greenland; Bermuda; Aruba; Guam; Corsica; Sardinia; Crete; Bali; Java; Kerala; Punjab; Tibet; Patagonia",
    "element": "bronze; steel; plastic; cardboard; concrete; nylon; petrol; paraffin; vinegar; "
    "plutonium; americium; curium; fermium; ammonia; methane; ozone; porcelain; pewter; ceramic; "
    "acetone; ethanol; quartz; asphalt",
    "animal": "newt; seahorse; moth; peacock; slug; "
    "wombat; ibex; lemur; aardvark; armadillo; tapir; okapi; meerkat; weasel; stoat; ferret; walrus; lynx; "
    "jackal; gazelle; bison; yak; sloth; anteater; puma; jaguar; mongoose; magpie; heron; stork; pelican; falcon; "
    "vulture; chameleon; gecko; iguana; squid; jellyfish; oyster; termite; mosquito",
    "book": "Ulysses; Middlemarch; Dune; Lolita; Rebecca; Candide; Germinal; Persuasion; Silas Marner; Kim; Walden; "
    "The Iliad; The Odyssey; The Aeneid; Beowulf; Brave New World; Lord of the Flies; The Trial; The Stranger; "
    "Dubliners; Ivanhoe; Vanity Fair; Bleak House; The Moonstone",
    "thing": "a turbine; a sextant; a theodolite; a zeppelin; a metronome; a gavel; a trellis; a sundial; a hammock; "
    "a periscope; a catapult; a gondola; a pagoda; a pyramid; a minaret; a monocle; a parachute; a pendulum; "
    "a samovar; a trampoline; an abacus; a boomerang; a chandelier; a dynamo",
}
INVENTED_PER_LIST = 300
SHARE_FOR_QUESTIONS = 0.3

_BEGINNINGS = (
    "Bar Bel Cor Dal Dro Fen Gar Hol Jor Kal Lor Mel Mor Nar Nov Ost Pel Quor Ras Sel Tar Thol Ul Vel Vor Wex Xan Yor "
    "Zam Zor"
)
_MIDDLES = "a e i o u an el en il or ur ad im ov ab"
_ENDINGS = {
    "place": "nia via land stan dor via mark ria tania gard",
    "element": "dium rium nium lium thium xine zium vium",
    "animal": "ble bat mole ger fin dle poo rat wig mink",
    "book": "dor mund thel gard wyn ric moth bane",
    "thing": "gle dle mer zet bin cket stip flock",
}
_BOOK_TITLES = (
    "The Song of {}",
    "The House of {}",
    "The Last Days of {}",
    "The Winter in {}",
    "The Secret of {}",
    "{}",
)


@dataclass(frozen=True)
class Names:
    """The names in a list."""

    real: list[str]
    invented: list[str]

    def draw(self, draw: random.Random) -> str:
        """A random name, equally often real and invented."""
        return draw.choice(draw.choice((self.real, self.invented)))

    def split(self, share: float) -> "tuple[Names, Names]":
        """Split both kinds into the first `share` and the rest."""
        first, rest = zip(*(_split(names, share) for names in (self.real, self.invented)), strict=True)
        return Names(*first), Names(*rest)


@dataclass(frozen=True)
class UnknownNames:
    """Names by list: some for training, others for the exam."""

    for_training: dict[str, Names]
    for_questions: dict[str, Names]


def unknown_names(tables: Iterable[Table], *, seed: int) -> UnknownNames:
    known = {name.lower() for table in tables for row in table.rows for cell in row for name in cell.split("; ")}
    result = UnknownNames({}, {})
    for kind in REAL:
        draw = random.Random(f"{seed} {kind}")
        real, invented = ([name for name in names if name.lower() not in known] for names in _both(kind, draw))
        draw.shuffle(real)
        draw.shuffle(invented)
        result.for_questions[kind], result.for_training[kind] = Names(real, invented).split(SHARE_FOR_QUESTIONS)
    return result


def _both(kind: str, draw: random.Random) -> tuple[list[str], list[str]]:
    return REAL[kind].split("; "), _invented(kind, draw)


def _split(names: list[str], share: float) -> tuple[list[str], list[str]]:
    length = int(len(names) * share)
    return names[:length], names[length:]


def _invented(kind: str, draw: random.Random) -> list[str]:
    parts = (_BEGINNINGS, _MIDDLES, _ENDINGS[kind])
    names: dict[str, None] = {}  # unique, in insertion order
    while len(names) < INVENTED_PER_LIST:
        names["".join(draw.choice(part.split()) for part in parts)] = None
    return [_as_name(kind, name, draw) for name in names]


def _as_name(kind: str, name: str, draw: random.Random) -> str:
    if kind == "book":
        return draw.choice(_BOOK_TITLES).format(name)
    if kind == "thing":
        return with_article(name.lower())
    return name if kind == "place" else name.lower()
