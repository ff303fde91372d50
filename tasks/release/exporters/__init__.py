"""Exporters, one file each; this union is the list of them."""

from typing import Annotated

from pydantic import Field

from tasks.release.exporters.adapter import Adapter
from tasks.release.exporters.safetensors import Safetensors

Exporter = Annotated[Safetensors | Adapter, Field(discriminator="kind")]
