"""What people type out of habit of other tools is answered by one line that says what to type here, and it is true."""

import shlex
from pathlib import Path

import pytest

from gptlab.commands.main import main
from gptlab.config import compose

# what is typed, and the line that is to be typed instead
HABITS: dict[str, str] = {
    # nanoGPT
    "train --batch_size=32 --compile=False --max_iters=100": "train data.batch_size=32 compile=false budget.steps=100",
    "train --device=cpu": "train trainer=cpu",
    "train --device=cuda:0": "train trainer=gpu",
    "train --eval_interval=250 --log_interval=10": "train trainer.val_every_n_steps=250 logger.every_n_steps=10",
    "train --n_layer=4 --n_head=4 --n_embd=64 --block_size=32": "train model.n_layer=4 model.n_head=4 model.n_embd=64 model.block_size=32",
    "train --wandb_log=True": "train logger=wandb",
    "train --dtype=bfloat16": "train trainer.precision=bf16-mixed",
    "train --grad_clip=0.5 --warmup_iters=10": "train trainer.gradient_clip_val=0.5 schedule.warmup_steps=10",
    "train dataset=shakespeare_char": "train data=shakespeare tokenizer=char",
    "train out_dir=out": "train run_dir=out",
    "sample start=Once upon a time": "sample 'prompt=Once upon a time'",
    "sample --out_dir=out": "sample run=out",
    # Hugging Face
    "train --per_device_train_batch_size 4 --num_train_epochs 3 --output_dir out": "train data.batch_size=4 budget.epochs=3 run_dir=out",
    "train --learning_rate 1e-3": "train optimizer.lr=1e-3",
    "train --fp16": "train trainer.precision=16-mixed",
    "train bf16=true": "train trainer.precision=bf16-mixed",
    "train fp16=false": "train trainer.precision=32-true",
    "train --gradient_accumulation_steps 4": "train data.batch_size=32 data.micro_batch_size=8",
    "train --lr_scheduler_type=cosine --optim=adamw_torch": "train schedule=cosine optimizer=adamw",
    "train --report_to=tensorboard --logging-steps=5": "train logger=tensorboard logger.every_n_steps=5",
    "train --save_steps 100 --save_total_limit 2": "train checkpoint.every_n_steps=100 checkpoint.keep_last=2",
    "train resume_from_checkpoint=true": "train resume=latest",
    "train --gradient_checkpointing": "train trainer.activation_checkpointing=true",
    "sample do_sample=false": "sample decoder=greedy",
    "sample num_beams=4 repetition_penalty=1.2": "sample decoder=beam decoder.beams=4 logits_processors.repetition=1.2",
    "generate --num_return_sequences 4 --max_length 20": "sample num_samples=4 max_new_tokens=20",
    "serve --model out --max-num-seqs 64 --served-model-name tiny --api-key k": "serve run=out max_batch=64 name=tiny token=k",
    # LitGPT, Lightning
    "pretrain --train.max_tokens 1000000": "train budget.tokens=1000000",
    "pretrain": "train",
    "fit --trainer.max_steps 10 --config x.yaml": "train budget.steps=10 config=x.yaml",
    "fit --trainer.max_epochs=3 --optimizer.lr=0.01": "train budget.epochs=3 optimizer.lr=0.01",
    "train --trainer.accumulate_grad_batches=2": "train data.batch_size=16 data.micro_batch_size=8",
    "eval run=out": "evaluate run=out",
    "playground run=out": "app run=out",
    "critical_batch_size run=out out=new": "batch run=out out=new",
    "webui": "app",
    "benchmark --batch_size=4": "bench data.batch_size=4",
    # with dashes, without a group, with other words
    "train --model=micro": "train model=micro",
    "model=micro": "train model=micro",
    "--batch_size=4": "train data.batch_size=4",
    "train --lr 1e-3": "train optimizer.lr=1e-3",
    "train --no-compile": "train compile=false",
    "train lr=1e-3": "train optimizer.lr=1e-3",
    "train batch_size=4": "train data.batch_size=4",
    "train steps=10": "train budget.steps=10",
    "train epochs=3": "train budget.epochs=3",
    "train max_steps=10": "train budget.steps=10",
    "train optimizer.learning_rate=1e-3": "train optimizer.lr=1e-3",
    "train optimizer.n_layer=3": "train model.n_layer=3",
    "train seed 1": "train seed=1",
    "train temperature=0.8": "train decoder.temperature=0.8",
    "train top_k=50": "train decoder=top_k decoder.k=50",
    "sample top_p=0.9": "sample decoder=top_p decoder.p=0.9",
    "train num_samples=3": "sample num_samples=3",
    "train devices=2": "train trainer.devices=2",
    "train gpus=2": "train trainer=gpu trainer.devices=2",
    "train precision=bf16": "train trainer.precision=bf16-mixed",
    "train weight_decay=0.1 dropout=0.1": "train optimizer.weight_decay=0.1 model.dropout=0.1",
    "train wandb=true": "train logger=wandb",
    "train context_length=64 n_layers=2": "train model.block_size=64 model.n_layer=2",
    # a part's key without the part
    "train data.files=my.txt": "train data=text data.files=my.txt",
    "train dataset=my.txt": "train data=text data.files=my.txt",
    "train dataset=roneneldan/TinyStories": "train data=hub data.path=roneneldan/TinyStories",
    "train tokenizer.name=gpt2": "train tokenizer=openai tokenizer.name=gpt2",
    "train decoder.p=0.9": "train decoder=top_p decoder.p=0.9",
    # brackets, and what a shell takes apart
    "train data=text data.files=[my.txt": "train data=text 'data.files=[my.txt]'",
    "train sample_prompts=hello, world": "train 'sample_prompts=hello, world'",
    "sample prompt=Once upon a time": "sample 'prompt=Once upon a time'",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("typed", HABITS)
def test_a_habit_is_answered_by_what_to_type(typed: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("x.yaml").write_text("model: {n_layer: 2}\nparts: {model: gpt}\n")
    there = sorted(tmp_path.rglob("*"))
    assert main(shlex.split(typed)) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    told = err.rstrip("\n").partition("; type: gptlab ")[2]
    assert told == HABITS[typed]
    verb, *argv = shlex.split(told)
    compose(verb, argv)
    assert sorted(tmp_path.rglob("*")) == there


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("train -x", "-x=?: no such flag; choose one of --multirun"),
        ("train nosuch=1 batch_size=4", "nosuch=1: no such key"),
        ("train batch_size=4 nosuch=1", "batch_size=4: no such key; type: gptlab train data.batch_size=4\n"),
        ("train 5", "5: is not key=value; quote values"),
        ("train decoder=greedy decoder.k=3", "decoder.k=3: no such key; it takes no fields"),
        ("train model.n_head=7", "model.n_head=7: does not divide"),
        ("train lr=fast", "lr=fast: no such key"),
        ("tokenize tokenizer=json tokenizer.path=x.json", "tokenizer.path=x.json: no such key of JSONFile; choose one"),
    ],
)
def test_nothing_is_advised_that_would_be_refused(typed: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(typed)) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: {said}") and err.count("\n") == 1
    assert "type:" not in err or "type:" in said


@pytest.mark.parametrize("typed", ["train model.n_layer=null", "train optimizer.lr=fast", "train model=huge"])
def test_a_line_that_is_nobodys_habit_is_composed_once(
    typed: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What was refused as it is need not be tried again to tell that it is refused."""
    monkeypatch.setattr("gptlab.commands.habits.compose", None)
    assert main(shlex.split(typed)) == 2
    assert capfd.readouterr().err.startswith(f"error: {typed.split()[1]}: ")
