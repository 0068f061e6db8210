"""A single flipped bit in a checkpoint is found by every reader; one in the list of checksums condemns no checkpoint."""

import subprocess
from pathlib import Path

import pytest

import gptlab
from gptlab.checksums import checksums
from gptlab.data.tokens.shards import held_out_stream
from gptlab.errors import UserError
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import fingerprint, load_tokenizer
from gptlab.training.resume import checkpoint_of
from tests.faults.conftest import Ask

BITS = 20  # flipped in a checkpoint, and as many in its list, one at a time
READERS = [["sample", "run=run", "prompt=the"], ["evaluate", "run=run"], ["export", "run=run", "out=out"],
           ["compare", "a=run", "b=other"], ["replay", "run=run", "step=1"],
           ["train", "init_from=run", "run_dir=new", "data=text", "data.files=[texts/*.txt]"]]  # fmt: skip


def flipped(content: bytes, number: int) -> bytes:
    """Flip one of BITS bits that are evenly spread, the first and the last byte among them."""
    at = number * (len(content) - 1) // (BITS - 1)
    changed = bytearray(content)
    changed[at] ^= 1 << (number % 8)
    return bytes(changed)


def test_a_flipped_bit_of_a_checkpoint_is_found(run: Path, ask: Ask) -> None:
    path = run / "checkpoints/last.ckpt"
    whole = path.read_bytes()
    path.unlink()  # the same file has other names too
    for number in range(BITS):
        path.write_bytes(flipped(whole, number))
        with pytest.raises(UserError, match=r"is damaged: its SHA-256 is not that of SHA256SUMS; .+sha256sum \*\.ckpt"):
            gptlab.load(run)
        found, _, said = checkpoint_of(RunDir(run))
        assert found.name == "step-2.ckpt" and said == ["last.ckpt: damaged; step-2.ckpt is taken instead"]
        assert ask(*READERS[number % len(READERS)]) == 2
    path.write_bytes(whole)
    gptlab.load(run)


def test_a_flipped_bit_of_the_list_condemns_no_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "checkpoints/SHA256SUMS"
    whole = path.read_bytes()
    for number in range(BITS):
        path.write_bytes(flipped(whole, number))
        gptlab.load(run)
        said = capsys.readouterr().err
        assert said == "" or (said.startswith("warning: ") and said.count("\n") == 1 and "sha256sum" in said)
        assert checkpoint_of(RunDir(run))[0].name == "last.ckpt"


OF_TEXT = {  # a file beside the checkpoints, and what reads it
    "held_out/val.bin": [["evaluate", "run=run"], ["compare", "a=run", "b=other"], ["compare", "a=other", "b=run"]],
    "held_out/manifest.json": [["evaluate", "run=run"], ["replay", "run=run", "step=1"]],
    "tokenizer/tokenizer.json": [*READERS[:4], READERS[5]],
}


@pytest.mark.parametrize("file", OF_TEXT)
def test_a_flipped_bit_of_what_is_held_out_or_of_the_tokenizer_is_found(
    file: str, run: Path, ask: Ask, capfd: pytest.CaptureFixture[str]
) -> None:
    path, readers = run / file, OF_TEXT[file]
    whole = path.read_bytes()
    for number in range(BITS):
        path.write_bytes(flipped(whole, number))
        if file.startswith("held_out"):
            with pytest.raises(UserError, match=r"val\.bin|manifest\.json"):
                held_out_stream(run / "held_out")
        else:
            for read in (load_tokenizer, fingerprint):
                with pytest.raises(UserError, match="tokenizer"):
                    read(path.parent)  # type: ignore[operator]
        if number < len(readers):
            assert ask(*readers[number]) == 2
    path.write_bytes(whole)
    assert ask(*readers[0]) == 0


def test_every_bit_of_the_held_out_text_counts(run: Path) -> None:
    """Its size alone says nothing: the ids before and after are both of the vocabulary."""
    path = run / "held_out/val.bin"
    changed = bytearray(path.read_bytes())
    changed[100] ^= 1
    path.write_bytes(changed)
    with pytest.raises(
        UserError, match=r"^data=\S+val\.bin: is damaged: its SHA-256 is not that of SHA256SUMS; take it"
    ):
        held_out_stream(run / "held_out")


def test_runs_that_have_no_list_of_these_files_are_read_and_it_is_said(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("held_out", "tokenizer"):
        (run / folder / "SHA256SUMS").unlink()
        said, listed = "", {path.name for path in (run / folder).iterdir() if path.name[0] != "."}
        for again in ("", f"cd {run / folder} && sha256sum -c SHA256SUMS"):
            if again:  # what the warning says, done
                command = said.partition("from now on: ")[2]
                subprocess.run(f"{command.strip()} && {again}", shell=True, check=True, capture_output=True)
                assert set(checksums(run / folder)) == listed
            capsys.readouterr()
            held_out_stream(run / "held_out") if folder == "held_out" else RunDir(run).load()
            said = capsys.readouterr().err
            expected = 0 if again else 1
            assert said.count("\n") == expected and said.count("there is no SHA256SUMS beside it") == expected


def test_without_a_list_it_is_said_and_the_archive_s_own_checksums_count(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoints/SHA256SUMS").unlink()
    gptlab.load(run)
    assert "there is no SHA256SUMS beside it" in capsys.readouterr().err
    path = run / "checkpoints/last.ckpt"
    content = bytearray(path.read_bytes())
    content[content.index(b"/data/0") + 500] ^= 1  # of a tensor
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a whole gptlab checkpoint"):
        gptlab.load(run)


def test_one_that_was_replaced_by_hand_is_taken_after_what_the_error_says(run: Path) -> None:
    path = run / "checkpoints/last.ckpt"
    content = (run / "checkpoints/best.ckpt").read_bytes()
    path.unlink()
    path.write_bytes(content + b"")
    (run / "checkpoints/SHA256SUMS").write_text(f"{'0' * 64}  last.ckpt\n")
    with pytest.raises(UserError, match="is damaged") as error:
        gptlab.load(run)
    command = str(error.value).partition("yourself: ")[2]
    subprocess.run(command, shell=True, check=True)
    gptlab.load(run)
    assert set(checksums(run / "checkpoints")) == {"last.ckpt", "best.ckpt", "step-2.ckpt"}
