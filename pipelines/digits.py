"""Digits, trained then compiled, in plain Python: `torusformer demo digits` without the talk.

    python -m torusformer.pipelines.digits [FOLDER]

Read it top to bottom; each line is a stage, and the files in the folder are what goes between them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from torusformer.fhe_compile import (
    compile_plan,
    interpret,
    lower,
    plan,
    save_deployment,
    save_program,
)
from torusformer.models import ModelConfig, Transformer, load_task
from torusformer.quantize import QuantConfig, TrainConfig, calibrate, export_qonnx, to_qat, train
from torusformer.serving import Client, Server


def main(folder: Path, preset: str = "digits-small") -> None:
    """Leave model.qonnx.onnx, program.onnx and deployment/ in `folder`; print one answer."""
    folder.mkdir(parents=True, exist_ok=True)
    config, recipe = ModelConfig.from_name(preset), TrainConfig.from_name(preset)
    task = load_task("digits", patch=config.patch, input_shape=config.input_shape)

    torch.manual_seed(recipe.seed)
    model = Transformer(config)
    train(model, task, recipe)

    qat = to_qat(model, QuantConfig.from_name(preset))
    calibrate(qat, task.x_train)
    print(train(qat, task, recipe, teacher=model))
    export_qonnx(qat, task.x_train[:1], folder / "model.qonnx.onnx")

    program = lower(folder / "model.qonnx.onnx")
    save_program(program, folder / "program.onnx")
    cost = plan(program)
    print(cost.table())
    save_deployment(compile_plan(cost), folder / "deployment")

    client, server = Client(folder / "deployment"), Server(folder / "deployment")
    q_x = client.quantize(task.x_test[:1])
    reply = server.run(client.encrypt(q_x), client.evaluation_keys())
    q_y = client.decrypt(reply)
    values = interpret(program, q_x)
    assert all(np.array_equal(q_y[name], values[name]) for name in q_y)
    (logits,) = client.dequantize(q_y).values()
    print("a", task.labels[task.y_test[0]], "is read as a", task.labels[logits.argmax()])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/digits-script"))
