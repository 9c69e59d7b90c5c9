"""Fine-tuning a loaded model on tokenised examples."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from thriftune.config import FinetuneConfig
from thriftune.errors import FinetuneError, require
from thriftune.examples import Example
from thriftune.finetuning.defaults import Course, course, resolved
from thriftune.finetuning.prepare import prepare, quiet, settle
from thriftune.memory import exhausted, release
from thriftune.model import LanguageModel
from thriftune.progress import progress

Say = Callable[[str], None]
_INSTALL = "'thriftune[finetune]'"
_CHECKPOINT_EVERY_S = 60.0


@dataclass
class Trained:
    """A fine-tuned model in memory.

    Args:
        model: the tuned model, in eval mode; with LoRA a PEFT model around the base.
        log: for each optimiser step ``step``, ``epoch``, ``loss`` (nats a response token), ``learning_rate`` and
            ``seconds`` since the start.
        seconds: duration of the training.
        tokens: tokens trained on, prompts and repetitions included, padding excluded.
        response_tokens: those of them that were learned, ends of answers included.
        steps: optimiser steps.
        config: the settings, numbers in place of ``auto``.
    """

    model: LanguageModel
    log: list[dict[str, Any]]
    seconds: float
    tokens: int
    response_tokens: int
    steps: int
    config: FinetuneConfig
    _restore: Callable[[], None] = field(repr=False)

    def detach(self) -> None:
        """Give the base model back as it was before; the tuned model is gone."""
        self._restore()


def train(
    language_model: LanguageModel,
    examples: Sequence[Example],
    config: FinetuneConfig,
    *,
    directory: Path | None = None,
    say: Say = print,
    probe: bool = False,
) -> Trained:
    """Fine-tune a model on responses.

    Args:
        language_model: the base; it is changed until `Trained.detach`.
        examples: what to learn from.
        config: how.
        directory: where checkpoints go; a training that was interrupted there is continued. None for none.
        say: receives the lines meant for people.
        probe: first measure a step, say how long the training will take and how much memory, and split batches or
            recompute activations where they would not fit.

    Returns:
        The tuned model and what happened.

    Raises:
        FinetuneError: nothing to learn from, settings that do not fit the model, not enough memory, or a loss that is
            not finite.
    """
    for needed in ("trl", "peft"):
        require(needed, command="thriftune finetune", install=_INSTALL)
    if not examples:
        raise FinetuneError("there are no examples to learn from")
    if language_model.device.startswith("cuda:") and language_model.device != "cuda:0":
        number = language_model.device.partition(":")[2]
        raise FinetuneError(f"training runs on the first visible GPU: set CUDA_VISIBLE_DEVICES={number}, --device cuda")
    if language_model.dtype == "float16":
        raise FinetuneError("float16 gradients underflow: use --dtype bfloat16, or float32 on hardware without it")
    if getattr(language_model.model, "is_quantized", False) and (config.method == "full" or config.merge):
        raise FinetuneError(
            f"the weights of {language_model.spec} are stored in few bits, and can neither all be trained nor take in "
            "an adapter: use LoRA without --merge, or the model in 16 bits"
        )
    settings = resolved(config, len(examples), int(language_model.model.config.get_text_config().hidden_size))
    plan = course(examples, settings)
    restore: Callable[[], None] = lambda: None  # noqa: E731
    with quiet():
        try:
            model, restore = prepare(language_model, settings)
            return _train(language_model, model, restore, examples, plan, settings, directory, say, probe)
        except BaseException as error:
            restore()
            if exhausted(error):
                release(language_model.device)
                raise FinetuneError(too_much(examples, settings)) from None
            raise


def too_much(examples: Sequence[Example], config: FinetuneConfig) -> str:
    """What to say when memory ran out."""
    longest = max(len(e.ids) for e in examples)
    return (
        f"out of memory with batches of {config.batch_size} and examples of up to {longest:,} tokens: lower "
        f"--batch-size or --max-tokens{' or --rank' if config.method == 'lora' else ', or use --method lora'}"
    )


def _train(
    lm: LanguageModel,
    model: Any,
    restore: Callable[[], None],
    examples: Sequence[Example],
    plan: Course,
    config: FinetuneConfig,
    directory: Path | None,
    say: Say,
    probe: bool,
) -> Trained:
    import torch
    import transformers
    import trl

    from thriftune.finetuning import probe as probing
    from thriftune.finetuning.trainer import Journal, ResponseTrainer, last_checkpoint, lines, steps_done
    from thriftune.lora import lean

    base = lm.model
    own_forward, use_cache = vars(base).get("forward"), getattr(base.config, "use_cache", None)
    per_step = [sum(len(examples[i].ids) for i in batch) for batch in plan.batches]
    checkpoint = None if directory is None else last_checkpoint(directory)
    done = 0 if checkpoint is None else steps_done(checkpoint)
    most, recompute = probing.most_tokens(lm.device), False
    with contextlib.ExitStack() as stack:
        model.train()  # dropout, where there is one, is left to PEFT
        settled = lean(model, getattr(torch, lm.dtype))

        def computing() -> contextlib.AbstractContextManager[Any]:
            if settled or lm.dtype == "float32":
                return contextlib.nullcontext()
            return torch.autocast(lm.device.partition(":")[0], getattr(torch, lm.dtype))

        if probe:
            fit = probing.probe(model, examples, plan, computing, lm.device)
            say(probing.estimate(lm, examples, plan, config, fit, done))
            if not fit.fits and lm.device == "cpu":  # a CPU's system kills the process instead of raising an error
                raise FinetuneError(too_much(examples, config))
            most, recompute = fit.most, fit.recompute
        output = str(directory or stack.enter_context(tempfile.TemporaryDirectory()))
        args = trl.SFTConfig(
            output_dir=output,
            per_device_train_batch_size=config.batch_size,
            num_train_epochs=1,
            learning_rate=float(config.learning_rate),
            lr_scheduler_type=config.schedule,
            warmup_steps=round(config.warmup * len(plan.batches)),
            weight_decay=config.weight_decay,
            seed=config.seed,
            bf16=False,  # our own autocast, around the model and its projection
            gradient_checkpointing=recompute,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            use_cpu=lm.device == "cpu",
            dataloader_pin_memory=False,
        )
        if args.n_gpu > 1:
            args._n_gpu = 1  # one model on one GPU; the trainer would otherwise refuse
        journal = Journal(
            stack.enter_context(progress("fine-tuning", sum(per_step), "tokens", sum(per_step[:done]))),
            per_step,
            len(plan.batches) / plan.epochs,
            None if directory is None else _CHECKPOINT_EVERY_S,
        )
        trainer = ResponseTrainer(
            examples,
            plan.batches,
            most,
            computing,
            model=model,
            args=args,
            processing_class=lm.tokenizer,
            callbacks=[journal],
        )
        journal.trainer = trainer
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        log = lines(trainer.state)
    settle(base, own_forward, use_cache)
    model.eval()
    if config.method == "lora":
        for module in model.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = True
        lean(model, getattr(torch, lm.dtype))
    else:
        base.to(getattr(torch, lm.dtype))
    learned = sum(int(examples[i].response.sum()) for batch in plan.batches for i in batch)
    tuned = replace(lm, model=model)
    return Trained(tuned, log, log[-1]["seconds"], sum(per_step), learned, len(plan.batches), config, restore)
