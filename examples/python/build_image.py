"""Builds a folder with a Dockerfile, and says what was done: python build_image.py FOLDER NAME."""

from __future__ import annotations

import sys

import hyper_sdk


def main(folder: str, name: str) -> None:
    hyper = hyper_sdk.Hyper()
    checked = hyper.check(folder)
    for found in checked.diagnostics:
        print(f"{found.file}:{found.line}: {found.severity}: {found.message}")
    try:
        result = hyper.build(folder, tags=name)
    except hyper_sdk.CommandFailedError as error:
        print(error.output, file=sys.stderr)
        raise SystemExit(f"{error.step} ended with exit code {error.exit_code}") from None
    for step in result.steps:
        print(f"{'cached' if step.cached else 'done':6} {step.milliseconds:6} ms  {step.name}")
    print(result.digest)


if __name__ == "__main__":
    main(*sys.argv[1:])
