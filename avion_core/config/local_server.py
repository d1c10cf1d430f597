"""A language model's server that the workflow starts on this machine and stops again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from avion_core.config.base import Count, Positive, Section

OwnFile = Annotated[str, AfterValidator(lambda path: str(Path(path).expanduser()))]


class LocalServerSettings(Section):
    """A server for the language models without a `base_url`, started before their narrations and stopped
    afterwards. Changing one of these settings repeats no request and retrains nothing."""

    program: Literal["llama_cpp", "vllm"] = "llama_cpp"
    """`llama_cpp`: the package xllamacpp, for CPUs and Macs; `vllm`: the package vllm, for NVIDIA GPUs."""
    model: str
    """The model's file (`.gguf`) for llama.cpp; its folder, or its name on the Hugging Face Hub, for vLLM."""
    python: OwnFile | None = None
    """Python of the environment that has the package; null for the pipeline's own."""
    projector: OwnFile | None = None
    """File that lets a model of llama.cpp take images (`mmproj`); null for text alone."""
    chat_template: OwnFile | None = None
    """Jinja file that turns a chat into the model's prompt; null for the template in the model's file."""
    threads: Count = 1
    """CPU threads, at most those of `--cores`; no more than there are idle physical cores."""
    slots: Count = 4
    """Requests worked on at once; also the default of `parallel_requests`."""
    context_tokens: Count = 1024
    """Most tokens of a request and its reply."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port on 127.0.0.1; null for a free one."""
    startup_minutes: Positive = 10.0
    """Time limit for loading the model, up to the first answer."""

    @property
    def package(self) -> str:
        """The Python package of the program."""
        return {"llama_cpp": "xllamacpp", "vllm": "vllm"}[self.program]

    @model_validator(mode="after")
    def _projector_is_of_llama_cpp(self) -> Self:
        if self.projector and self.program != "llama_cpp":
            raise ValueError(f"projector: {self.program} reads it from the model's folder; leave it out")
        return self
