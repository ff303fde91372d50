"""The block with a data key: 32 random bytes, which show themselves nowhere."""

import base64

import pytest
from pydantic import SecretStr

from blocks.encryption import DataKey


def test_a_made_key_has_32_bytes_and_is_another_each_time() -> None:
    one, other = DataKey.make(), DataKey.make()
    assert len(one.material()) == 32
    assert one.material() != other.material()


def test_what_openssl_prints_is_taken_with_its_line_break() -> None:
    assert DataKey(key=SecretStr(base64.b64encode(bytes(range(32))).decode() + "\n")).material() == bytes(range(32))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its key has 0 bytes, not 32"),
        ("c2hvcnQ=", "its key has 5 bytes, not 32"),
        ("my pass word!", "its key is not Base64"),
    ],
)
def test_what_is_no_key_is_refused_without_being_shown(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        DataKey(key=SecretStr(text)).material()
    assert not text or text not in str(error.value)


def test_the_key_is_in_no_repr() -> None:
    block = DataKey.make()
    assert block.key.get_secret_value() not in f"{block!r} {block} {block.model_dump()}"
