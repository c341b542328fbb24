"""`limit_spinning`: on a busy machine, waiting OpenMP threads sleep soon. Results do not change."""

import ast
import inspect
import os
from types import SimpleNamespace

import pytest
from small import python

import wbdc.__main__
from wbdc.submit.pack.scripts import MAIN


def packed():
    """Take `limit_spinning` out of a packed main.py."""
    return next(
        ast.unparse(n)
        for n in ast.parse(MAIN).body
        if isinstance(n, ast.FunctionDef) and n.name == "limit_spinning"
    )


@pytest.mark.parametrize(
    "source", [inspect.getsource(wbdc.__main__.limit_spinning), packed()], ids=["wbdc", "main.py"]
)
@pytest.mark.parametrize(
    ("load", "environment", "count"),
    [
        (0.9, {}, None),
        (1.1, {}, "1000"),
        (30.0, {"OMP_WAIT_POLICY": "active"}, None),
        (30.0, {"GOMP_SPINCOUNT": "7"}, "7"),
    ],
)
def test_threads_spin_briefly_on_a_busy_machine_unless_the_user_chose(
    source, load, environment, count
):
    system = SimpleNamespace(
        environ=dict(environment), getloadavg=lambda: (load, 0.0, 0.0), cpu_count=lambda: 2
    )
    names = {"os": system}
    exec(source, names)
    names["limit_spinning"]()
    assert system.environ.get("GOMP_SPINCOUNT") == count


def test_it_is_decided_before_torch_is_imported():
    assert 0 < MAIN.index("\nlimit_spinning()") < MAIN.index("from wbdc.serve.entry import")
    run = inspect.getsource(wbdc.__main__.run)
    assert 0 < run.index("limit_spinning()") < run.index("from wbdc.cli import")


STEPS = """
import hashlib, torch
torch.set_num_threads(2)
torch.manual_seed(0)
x, w = torch.randn(64, 300), torch.randn(300, 200, requires_grad=True)
for _ in range(5):
    normalized = torch.nn.functional.layer_norm(x @ w, (200,))
    loss = torch.nn.functional.gelu(normalized).softmax(-1).square().mean()
    loss.backward()
    with torch.no_grad():
        w -= w.grad
        w.grad = None
print(hashlib.sha256(w.detach().numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_bits_stay_the_same():
    plain = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    results = [
        python(STEPS, env=plain | added, timeout=120)
        for added in ({"GOMP_SPINCOUNT": "20000"}, {"GOMP_SPINCOUNT": "1000"})
    ]
    assert len(results[0].stdout) == 65, results[0].stderr
    assert results[0].stdout == results[1].stdout
