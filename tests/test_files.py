"""A file is there whole or not at all."""

import pytest

from utils.files import whole_file, write_json


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "folder" / "content.json"
    write_json(path, {"old": "ä"})
    assert path.read_text(encoding="utf-8") == '{\n  "old": "ä"\n}\n'
    with pytest.raises(TypeError), whole_file(path) as file:
        file.writelines([b"half", "a file takes bytes"])
    assert "old" in path.read_text()
    assert [each.name for each in path.parent.iterdir()] == ["content.json"]
