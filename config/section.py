"""What the sections of the settings have in common: their model, and types of single settings."""

from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    SerializationInfo,
)

from config.checks import check_secret

DAY_S: Final = 86_400.0

REVEAL_SECRETS = {"reveal_secrets": True}
"""Serialization context in which secrets are written in clear: for a pipe to a child process."""


def _dump_secret(secret: SecretStr, info: SerializationInfo) -> str:
    if info.context == REVEAL_SECRETS:
        return secret.get_secret_value()
    return str(secret)


Name = Annotated[str, Field(min_length=1)]
Secret = Annotated[
    SecretStr,
    Field(min_length=1),
    AfterValidator(check_secret),
    PlainSerializer(_dump_secret),
]
TimeoutS = Annotated[float, Field(gt=0, le=DAY_S)]


class Section(BaseModel):
    """One section of the settings file."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )
