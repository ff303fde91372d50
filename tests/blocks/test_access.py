"""The block that opens data sources: options by protocol, and secrets that show themselves nowhere."""

import pytest
from pydantic import SecretStr, ValidationError

from blocks.access import DataAccess


def test_what_is_empty_is_left_to_the_environment() -> None:
    assert DataAccess().options() == {}


def test_each_field_goes_to_its_protocol() -> None:
    block = DataAccess(
        key="k", secret=SecretStr("s"), session_token=SecretStr("t"), endpoint_url="http://x", hub_token=SecretStr("h")
    )
    assert block.options() == {
        "s3": {"key": "k", "secret": "s", "token": "t", "endpoint_url": "http://x"},
        "hf": {"token": "h"},
    }


def test_others_win() -> None:
    others = SecretStr('{"gs": {"token": "g"}, "s3": {"anon": true}}')
    assert DataAccess(key="k", others=others).options() == {"s3": {"anon": True}, "gs": {"token": "g"}}


@pytest.mark.parametrize(
    ("text", "said"), [("{sesame", "not JSON at line 1, column 2"), ('{"s3": "sesame"}', "object of objects")]
)
def test_what_is_no_json_of_protocols_is_refused_without_being_shown(text: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said) as error:
        DataAccess(others=SecretStr(text))
    assert "sesame" not in str(error.value)


def test_secrets_are_in_no_repr() -> None:
    block = DataAccess(secret=SecretStr("one-word"), session_token=SecretStr("two-word"), hub_token=SecretStr("three-word"))
    assert "-word" not in f"{block!r} {block} {block.model_dump()}"
