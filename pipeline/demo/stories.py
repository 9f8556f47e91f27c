"""Short stories from a grammar: a hero, an animal or a thing, a wish, a problem, help, and an ending.

    story = tell_story(random.Random(0))
    story.title, story.paragraphs, story.subject

Stories are consistent: the lost thing is the one that is found, and whoever is helped says thank you. A single random
generator makes all choices, so a seed gives the same stories everywhere.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.demo.tables import with_article

GIRLS = [
    "Lily",
    "Anna",
    "Mia",
    "Emma",
    "Rosa",
    "Nora",
    "Ella",
    "Zoe",
    "Ruby",
    "Clara",
    "Ida",
    "Maya",
    "Sara",
    "Eva",
    "Lucy",
    "Hanna",
]
BOYS = [
    "Tom",
    "Ben",
    "Max",
    "Sam",
    "Leo",
    "Jack",
    "Finn",
    "Oscar",
    "Paul",
    "Theo",
    "Adam",
    "Noah",
    "Hugo",
    "Felix",
    "Luke",
    "Tim",
]
ANIMALS = [
    "dog",
    "cat",
    "rabbit",
    "duck",
    "horse",
    "lamb",
    "fox",
    "bird",
    "mouse",
    "goat",
    "hedgehog",
    "squirrel",
    "owl",
    "bear",
    "frog",
    "pony",
    "kitten",
    "puppy",
    "hen",
    "turtle",
]
THINGS = [
    "kite",
    "ball",
    "boat",
    "doll",
    "hat",
    "scarf",
    "drum",
    "book",
    "lamp",
    "bell",
    "basket",
    "coat",
    "cup",
    "key",
    "ring",
    "flute",
    "train",
    "bucket",
]
COLOURS = ["red", "blue", "green", "yellow", "white", "little", "old", "golden", "silver", "striped"]
PLACES = [
    "in the garden",
    "in the forest",
    "by the river",
    "on the hill",
    "in the meadow",
    "by the lake",
    "near the old mill",
    "in the park",
    "behind the barn",
    "at the edge of the village",
    "by the sea",
    "under the big oak",
]
HELPERS = [
    "grandmother",
    "grandfather",
    "mother",
    "father",
    "sister",
    "brother",
    "aunt",
    "uncle",
]
WEATHER = ["sunny", "cold", "windy", "rainy", "warm", "foggy", "snowy", "quiet"]
FOODS = ["bread", "a carrot", "some milk", "an apple", "warm soup", "a piece of cake", "some cheese", "a bowl of rice"]
MOODS = ["kind", "brave", "quiet", "clever", "cheerful", "gentle", "patient", "curious"]


@dataclass(frozen=True)
class Story:
    """`subject` is the animal or thing that the story is about, which users may ask for."""

    title: str
    subject: str
    paragraphs: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.paragraphs)


@dataclass(frozen=True)
class Cast:
    """The characters and things in a story; `he`, `him` and `his` are the hero's pronouns."""

    hero: str
    he: str
    him: str
    his: str
    friend: str
    animal: str
    thing: str
    colour: str
    place: str
    other_place: str
    helper: str
    weather: str
    food: str
    mood: str


Plot = Callable[[Cast, random.Random], Story]


def tell_story(draw: random.Random) -> Story:
    plot, cast = draw.choice(PLOTS), _cast(draw)
    story = plot(cast, draw)
    text = "\n".join(story.paragraphs)
    text = _name_once(text, cast.hero, "the girl" if cast.he == "she" else "the boy")
    text = _name_once(text, cast.friend, f"{cast.his} friend")
    text = _colour_once(text, cast.colour, cast.thing)
    return replace(story, paragraphs=tuple(text.split("\n")))


def _name_once(text: str, name: str, phrase: str) -> str:
    """Replace a name by a phrase after the first mention: a small model mixes names up."""
    first, found, rest = text.partition(name)
    rest = re.sub(rf', {name}(?=[,.!?]+")', "", rest)  # "Thank you, Max,"
    sentence_start = r'((?:^|[.!?] |[.!?]" |"))'
    rest = re.sub(rf"{sentence_start}{name}\b", rf"\1{phrase.capitalize()}", rest, flags=re.MULTILINE)
    return first + found + re.sub(rf"\b{name}\b", phrase, rest)


def _colour_once(text: str, colour: str, thing: str) -> str:
    """Drop a thing's colour after the first mention, for the same reason."""
    first, found, rest = text.partition(f"{colour} {thing}")
    return first + found + rest.replace(f"{colour} {thing}", thing)


def _cast(draw: random.Random) -> Cast:
    is_girl = draw.random() < 0.5
    hero, friend = draw.sample(GIRLS if is_girl else BOYS, 2)
    he, him, his = ("she", "her", "her") if is_girl else ("he", "him", "his")
    place, other_place = draw.sample(PLACES, 2)
    choices = (ANIMALS, THINGS, COLOURS)
    animal, thing, colour = (draw.choice(names) for names in choices)
    helper, weather, food, mood = (draw.choice(names) for names in (HELPERS, WEATHER, FOODS, MOODS))
    return Cast(
        hero, he, him, his, friend, animal, thing, colour, place, other_place, helper, weather, food, mood
    )  # fmt: skip


def _opening(cast: Cast, draw: random.Random) -> str:
    child = "girl" if cast.he == "she" else "boy"
    return draw.choice(
        (
            f"Once upon a time there was a {cast.mood} {child} called {cast.hero}.",
            f"{cast.hero} was a {cast.mood} {child}.",
            f"There once lived a {child} named {cast.hero}, who was very {cast.mood}.",
            f"One {cast.weather} day, a {child} named {cast.hero} went out to play.",
        )
    )


def _moral(cast: Cast, draw: random.Random, *, friends: str) -> str:
    return draw.choice(
        (
            f"From that day on, {friends} were best friends.",
            f"That evening {cast.hero} fell asleep with a smile.",
            f"{cast.hero} never forgot that day.",
            "And so the day had a happy end.",
        )
    )


def _lost_thing(cast: Cast, draw: random.Random) -> Story:
    it = f"{cast.colour} {cast.thing}"
    trouble = draw.choice(
        (
            f"One morning the {it} was gone.",
            f"But one {cast.weather} day {cast.he} lost the {it}.",
            f"Then, on a {cast.weather} afternoon, the {it} was nowhere to be seen.",
        )
    )
    search = draw.choice(
        (
            f'"Where is my {cast.thing}?" cried {cast.hero}. {cast.hero} looked under the bed, but it was not there.',
            f"{cast.hero} looked everywhere, and {cast.he} was very sad.",
            f'{cast.hero} began to cry. "I want my {cast.thing} back," {cast.he} said.',
        )
    )
    found = draw.choice(
        (
            f"{cast.hero} went out with {cast.his} {cast.helper}, and {cast.place} they saw the {it}.",
            f'A {cast.animal} came by. "Follow me," said the {cast.animal}, and {cast.place} lay the {it}.',
            f"{cast.hero}'s {cast.helper} helped to look, and at last they found the {it} {cast.place}.",
        )
    )
    end = draw.choice(
        (
            f'"Thank you!" said {cast.hero}, and {cast.he} held the {cast.thing} tight.',
            f"{cast.hero} laughed and danced with the {cast.thing} all the way home.",
            f"{cast.hero} was happy and never left the {cast.thing} outside again.",
        )
    )
    beginning = f"{_opening(cast, draw)} {cast.hero} had {with_article(it)} and loved it very much."
    return Story(f"{cast.hero} and the {it}", cast.thing, (beginning, f"{trouble} {search}", f"{found} {end}"))


def _animal_in_trouble(cast: Cast, draw: random.Random) -> Story:
    animal = cast.animal
    met = draw.choice(
        (
            f"{cast.place.capitalize()}, {cast.hero} met a small {animal}.",
            f"{cast.hero} saw a little {animal} {cast.place}.",
        )
    )
    trouble, help_given = draw.choice(
        (
            (
                f"The {animal} was cold and afraid.",
                f"{cast.hero} gave it a warm blanket, and it was not afraid any more.",
            ),
            (f"The {animal} was very hungry.", f"{cast.hero} gave it {cast.food}, and it ate until it was full."),
            (
                f"The {animal} had hurt its leg.",
                f"{cast.hero} and {cast.his} {cast.helper} washed the leg, and soon it was well again.",
            ),
            (
                f"The {animal} had lost its mother.",
                f"{cast.hero} walked with it all the way, and they found its mother {cast.other_place}.",
            ),
            (
                f"The {animal} was stuck in a deep hole.",
                f"{cast.hero} fetched a rope, and with {cast.his} {cast.helper} {cast.he} pulled it out.",
            ),
            (
                f"The {animal} had no friends and felt lonely.",
                f"{cast.hero} sat down next to it and sang a song, and it was not lonely any more.",
            ),
        )
    )
    asked = draw.choice(
        (f'"What is wrong?" asked {cast.hero}.', f'"Can I help you?" said {cast.hero}.', f"{cast.hero} wanted to help.")
    )
    thanks = draw.choice(
        (f'"Thank you, {cast.hero}," said the {animal}.', f"The {animal} was happy and jumped for joy.")
    )
    end = _moral(cast, draw, friends=f"{cast.hero} and the {animal}")
    return Story(
        f"{cast.hero} and the {animal}",
        animal,
        (f"{_opening(cast, draw)} {met}", f"{trouble} {asked} {help_given}", f"{thanks} {end}"),
    )


def _broken_thing(cast: Cast, draw: random.Random) -> Story:
    it = f"{cast.colour} {cast.thing}"
    wish = f"{cast.hero} wanted to show the {it} to {cast.his} friend {cast.friend}."
    trouble = draw.choice(
        (
            f"But on the way {cast.he} fell, and the {cast.thing} broke.",
            f"But a strong wind came, and the {cast.thing} fell down and broke.",
            f"But a big {cast.animal} ran by, and the {cast.thing} fell and broke.",
        )
    )
    answer = draw.choice(
        (
            f'"Do not cry," said {cast.his} {cast.helper}. "We can mend it."',
            f'{cast.friend} came and said, "Do not be sad. We can mend it."',
        )
    )
    work = draw.choice(
        (
            f"They worked all day, and in the evening the {it} was whole again.",
            f"They took some glue and some string, and soon the {it} was as good as new.",
        )
    )
    end = _moral(cast, draw, friends=f"{cast.hero} and {cast.friend}")
    return Story(
        f"{cast.hero} and the broken {cast.thing}",
        cast.thing,
        (f"{_opening(cast, draw)} {wish}", f"{trouble} {cast.hero} was sad. {answer}", f"{work} {end}"),
    )


def _sharing(cast: Cast, draw: random.Random) -> Story:
    it = f"{cast.colour} {cast.thing}"
    wish = f"{cast.his.capitalize()} friend {cast.friend} had no {cast.thing} and wished for one."
    trouble = draw.choice(
        (
            f'"It is mine," said {cast.hero}, and did not want to share the {it}.',
            f"{cast.hero} held the {it} tight and said no.",
        )
    )
    turn = draw.choice(
        (
            f"{cast.friend} went away and sat alone {cast.place}. Then {cast.hero} felt sorry.",
            f'"It is more fun with two," said {cast.his} {cast.helper}. {cast.hero} thought about it.',
        )
    )
    shared = draw.choice(
        (
            f'"Let us play with the {cast.thing} together," said {cast.hero}.',
            f"{cast.hero} gave the {it} to {cast.friend}, and they took turns.",
        )
    )
    end = _moral(cast, draw, friends=f"{cast.hero} and {cast.friend}")
    return Story(
        f"{cast.hero}, {cast.friend} and the {it}",
        cast.thing,
        (f"{_opening(cast, draw)} {cast.hero} had {with_article(it)}. {wish}", f"{trouble} {turn}", f"{shared} {end}"),
    )


def _lost_way(cast: Cast, draw: random.Random) -> Story:
    animal = cast.animal
    wish = f"{cast.hero} wanted to see the {animal} that lived {cast.place}."
    trouble = draw.choice(
        (
            f"{cast.hero} walked and walked, but soon it was dark and {cast.he} did not know the way home.",
            f"{cast.hero} went alone, and a thick fog hid the way home.",
        )
    )
    help_given = draw.choice(
        (
            f'Then the {animal} came. "I know the way," said the {animal}. "Come with me."',
            f"Then the {animal} came and ran ahead, and {cast.hero} followed it step by step.",
        )
    )
    end = draw.choice(
        (
            f"At the door stood {cast.his} {cast.helper} and gave them both {cast.food}.",
            f"Soon {cast.hero} saw the light of the house, and {cast.his} {cast.helper} was very glad.",
        )
    )
    return Story(
        f"{cast.hero} and the {animal} that knew the way",
        animal,
        (f"{_opening(cast, draw)} {wish}", trouble, f"{help_given} {end} {_thanks(cast, animal)}"),
    )


def _thanks(cast: Cast, animal: str) -> str:
    return f'"Thank you, dear {animal}," said {cast.hero}.'


def _gift(cast: Cast, draw: random.Random) -> Story:
    it = f"{cast.colour} {cast.thing}"
    wish = f"It was the birthday of {cast.his} {cast.helper}, and {cast.hero} wanted to give a gift."
    friend = f"{cast.his} friend {cast.friend}"
    trouble = f"But {cast.he} had no money, and {cast.he} did not know what to do."
    help_given = draw.choice(
        (
            f'"Make something with your own hands," said {friend}. So {cast.hero} made {with_article(it)}.',
            f"Then {friend} brought wood and paint, and together they made {with_article(it)}.",
        )
    )
    end = f'"What a lovely {cast.thing}!" said {cast.his} {cast.helper}. "It is the best gift of all."'
    return Story(
        f"{cast.hero} makes {with_article(cast.thing)}",
        cast.thing,
        (f"{_opening(cast, draw)} {wish}", f"{trouble} {help_given}", end),
    )


PLOTS: tuple[Plot, ...] = (
    _lost_thing,
    _animal_in_trouble,
    _animal_in_trouble,
    _broken_thing,
    _sharing,
    _lost_way,
    _gift,
)
