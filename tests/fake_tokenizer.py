"""A tokenizer for tests: one id per byte, and a space before every text like SentencePiece."""

import numpy as np


class ByteTokenizer:
    name, fingerprint = "bytes", "0" * 64
    unk_id, bos_id, eos_id, vocab_size = 0, 1, 2, 259

    def encode(self, text, *, add_bos=False, add_eos=False):
        ids = [byte + 3 for byte in (" " + text).encode()]
        return [self.bos_id] * add_bos + ids + [self.eos_id] * add_eos

    def encode_batch(self, texts):
        return [np.array(self.encode(text), dtype=np.uint16) for text in texts]

    def encode_batch_reference(self, texts):
        return [self.encode(text) for text in texts]

    def decode(self, ids):
        return bytes(token - 3 for token in ids if token > 2).decode("utf-8", errors="replace").removeprefix(" ")

    def token_bytes(self):
        return [b"", b"", b"", *(bytes([byte]) for byte in range(256))]

    def token_byte_lengths(self):
        return np.array([len(piece) for piece in self.token_bytes()])
