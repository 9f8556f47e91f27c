"""Run the server in a thread with two small models."""

import socket
import threading

import openai
import torch

from model import create_model
from pipeline.generation.config import GenerationConfig
from pipeline.modeling.config import ModelConfig
from pipeline.serving.api import create_app
from pipeline.serving.config import ServerConfig
from pipeline.serving.connections import make_uvicorn
from pipeline.serving.engine import Engine, ServedModel
from tests.fake_tokenizer import ByteTokenizer

SHAPE = ModelConfig(
    vocab_size=259, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    intermediate_size=64, max_position_embeddings=256,
)  # fmt: skip
TOKENIZER = ByteTokenizer()


def small_model(seed: int, *, never_ends: bool = True):
    torch.manual_seed(seed)
    model = create_model(SHAPE)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(4)
        if never_ends:  # an EOS row of zeros is never the most likely
            model.model.embed_tokens.weight[2] = 0
    return model.eval()


class RunningServer:
    """The app in uvicorn, in a thread and on its own port."""

    def __init__(self, server: ServerConfig, *, api_key: str | None = None, models=None, tokenizer=TOKENIZER) -> None:
        self.models = models or {"base": small_model(1), "chatty": small_model(2)}
        served = [
            ServedModel(
                name,
                model,
                tokenizer,
                is_chat=name == "chatty",
                max_rows=server.max_batch,
                prefix_cache_bytes=server.prefix_cache_mb * 1_000_000,
            )
            for name, model in self.models.items()
        ]
        self.engine = Engine(served, max_waiting=server.max_waiting, timeout=server.request_timeout)
        app = create_app(self.engine, GenerationConfig(), server, api_key=api_key)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._uvicorn = make_uvicorn(app, server, greeting="")
        self._thread = threading.Thread(target=self._uvicorn.run, kwargs={"sockets": [listener]})
        self._thread.start()

    def close(self) -> None:
        self._uvicorn.should_exit = True
        self._thread.join()

    def client(self, api_key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0)
