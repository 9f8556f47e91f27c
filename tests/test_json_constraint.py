"""JSON constraints: a model of noise writes answers that follow the schema, in one batch, with any tokenizer."""

import json
import re

import pytest

from pipeline.generation.batch_generator import BatchGenerator
from pipeline.generation.json_constraint import JsonGrammars
from pipeline.generation.settings import GenerationSettings
from tests.fake_tokenizer import ByteTokenizer
from tests.running_server import TOKENIZER, small_model
from tests.small_models import trained_tokenizer
from utils.errors import PipelineError

LINK = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/link"}, {"type": "null"}]}}}
LINK |= {"required": ["next"], "additionalProperties": False}
SCHEMAS = [
    ({"type": "object"}, lambda value: isinstance(value, dict)),
    ({"enum": ["red", "green", 3, None]}, lambda value: value in ("red", "green", 3, None)),
    ({"const": {"a": [1]}}, lambda value: value == {"a": [1]}),
    ({"type": "integer", "minimum": 3, "maximum": 12}, lambda value: 3 <= value <= 12),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4}, lambda value: 2 <= len(value) <= 4),
    ({"type": "string", "pattern": "^[A-Z]{2}[0-9]{3}$"}, lambda value: re.fullmatch("[A-Z]{2}[0-9]{3}", value)),
    ({"type": "string", "format": "date"}, lambda value: re.fullmatch(r"\d{4}-\d\d-\d\d", value)),
    ({"type": "string", "maxLength": 5}, lambda value: len(value) <= 5),
    ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, lambda value: value in (None, True, False)),
    ({"$defs": {"link": LINK}, "$ref": "#/$defs/link"}, lambda value: set(value) == {"next"}),
]


def test_noise_follows_every_schema_in_one_batch():
    grammars = JsonGrammars(TOKENIZER)
    batch = BatchGenerator(small_model(3), TOKENIZER, max_rows=2 * len(SCHEMAS))
    fits, texts, ended = {}, {}, []
    for seed in range(2):
        for schema, check in SCHEMAS:
            rules = {"max_length": 120, "temperature": 5, "top_k": 0, "top_p": 1, "seed": seed}
            row = batch.join([1, 30], GenerationSettings(**rules, constraint=grammars.compile(schema)))
            fits[row], texts[row] = check, ""
    while batch.num_rows:
        for event in batch.step():
            texts[event.row] += event.text
            if event.finish_reason == "stop":
                ended.append(event.row)
    assert len(ended) >= 15
    for row in ended:
        assert fits[row](json.loads(texts[row])), texts[row]


@pytest.mark.parametrize("name", ["bytes", "trained"])
def test_allowed_tokens_are_those_that_keep_json_valid(name, tmp_path):
    tokenizer = ByteTokenizer() if name == "bytes" else trained_tokenizer(tmp_path / "tokenizer")
    answer = JsonGrammars(tokenizer).compile({"enum": ["the fox", "the dog"]}).start()
    pieces = tokenizer.token_bytes()
    text = b""
    while not answer.is_finished:
        allowed = answer.allowed().nonzero().flatten().tolist()
        rests = [whole[len(text) :] for whole in (b'"the fox"', b'"the dog"') if whole.startswith(text)]
        assert allowed
        assert all(any(rest.startswith(pieces[token]) for rest in rests) for token in allowed)
        text += pieces[allowed[-1]]
        answer.accept(allowed[-1])
    assert json.loads(text) in ("the fox", "the dog")


@pytest.mark.parametrize("schema", [{"uniqueItems": True}, {"not": {}}, {"type": "blah"}, {"$ref": "http://x/y"}])
def test_schema_that_cannot_be_enforced_is_an_error(schema):
    with pytest.raises(PipelineError, match="cannot be enforced"):
        JsonGrammars(TOKENIZER).compile(schema)


def test_lenience_cannot_be_asked_for():
    with pytest.raises(PipelineError, match="uniqueItems"):
        JsonGrammars(TOKENIZER).compile({"uniqueItems": True, "x-guidance": {"lenient": True}})
