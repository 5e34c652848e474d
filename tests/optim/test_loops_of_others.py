"""The examples of docs/solvers.md, run as they stand there with the packages that they are for."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import bpgrad.optim
from bpgrad.optim import BPGrad

DOCS = Path(bpgrad.optim.__file__).parents[2] / "docs" / "solvers.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)


def example(words: str) -> str:
    (found,) = [text for text in EXAMPLES if words in text]
    return found


RUN = (
    "optimizer.zero_grad()\n    loss",
    "islice",
    "from accelerate",
    "import lightning",
    "from transformers",
)


def test_every_example_is_run() -> None:
    assert sorted(map(example, RUN)) == sorted(EXAMPLES)


def wanted(package: str) -> Any:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}: pip install {package}")
    return importlib.import_module(package)


@pytest.fixture
def names() -> dict[str, Any]:
    """What the examples take for granted; a loss that BPGrad halves within an epoch at L = 50."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 4)
    data = torch.utils.data.TensorDataset(inputs, inputs @ torch.randn(4, 2))
    return {
        "BPGrad": BPGrad,
        "model": torch.nn.Linear(4, 2),
        "criterion": torch.nn.MSELoss(),
        "batches": torch.utils.data.DataLoader(data, batch_size=4),
        "data": data,
    }


def objective(names: dict[str, Any]) -> float:
    inputs, targets = names["data"].tensors
    with torch.no_grad():
        return float(torch.nn.functional.mse_loss(names["model"](inputs), targets))


def by_hand(names: dict[str, Any], parts: int = 1) -> list[torch.Tensor]:
    """The same epoch in a loop of one's own, from the same weights."""
    model = torch.nn.Linear(4, 2)
    model.load_state_dict(names["model"].state_dict())
    optimizer = BPGrad(model.parameters(), 50.0)
    for inputs, targets in torch.utils.data.DataLoader(names["data"], batch_size=4 * parts):
        optimizer.zero_grad()
        loss = names["criterion"](model(inputs), targets)
        loss.backward()
        optimizer.step(loss=loss)
    return [p.detach() for p in model.parameters()]


def test_the_loop_of_ones_own(names: dict[str, Any]) -> None:
    expected, before = by_hand(names), objective(names)
    exec(example("optimizer.zero_grad()\n    loss"), names)
    assert all(
        torch.equal(p, q) for p, q in zip(names["model"].parameters(), expected, strict=True)
    )
    assert objective(names) < before


def test_the_suggestion(names: dict[str, Any]) -> None:
    exec(example("islice"), names)
    assert 1.0 < names["lipschitz"] < 100.0


def test_accelerate(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted("accelerate")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    expected = by_hand(names)
    exec(example("from accelerate"), names)
    for p, q in zip(names["model"].parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), q)


def test_lightning(names: dict[str, Any], tmp_path: Path) -> None:
    lightning = wanted("lightning")
    expected = by_hand(names)
    exec(example("import lightning"), names)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(names["Net"](names["model"], names["criterion"]), names["batches"])
    for p, q in zip(names["model"].parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), q)


class Regression(torch.nn.Module):
    """As the Trainer wants its models: from the entries of a batch to a dict with the loss."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": torch.nn.functional.mse_loss(self.model(inputs), labels)}


@pytest.mark.parametrize("parts", [1, 2])
def test_hugging_face_trainer(names: dict[str, Any], tmp_path: Path, parts: int) -> None:
    transformers = wanted("transformers")
    wanted("accelerate")
    expected = by_hand(names, parts)
    exec(example("from transformers"), names)
    rows = [{"inputs": x, "labels": y} for x, y in names["data"]]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=parts,
        num_train_epochs=1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    model = Regression(names["model"])
    optimizer = BPGrad(model.parameters(), 50.0)
    trainer = names["LossAwareTrainer"](
        model=model, args=arguments, train_dataset=rows, optimizers=(optimizer, None)
    )
    trainer.train()
    for p, q in zip(names["model"].parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), q)
