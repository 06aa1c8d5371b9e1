"""Shell completion as bash asks for it, with the script that `dpd --show-completion bash` prints."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ASK = """
eval "$(dpd --show-completion bash)"
asked=$(complete -p dpd) || exit 9
[[ $asked =~ -F\\ ([^ ]+) ]] || exit 8
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
"${BASH_REMATCH[1]}" dpd
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ge"], ["generate"]),
        (["e"], ["evaluate", "export", "engines", "encrypt"]),
        (["generate", "--se"], ["--seed"]),
        (["generate", "site.dpd", "--image"], ["--image-format"]),
        (["info", "--qqq"], [""]),
        (["train", "--tune", ""], ["full", "lora"]),
        (["fed"], ["federate"]),
        (["federate", "--tls-r"], ["--tls-root"]),
        (["generate", "--format", "web"], ["webdataset"]),
        (["pretrain", "--stage", "autoencoder,de"], ["autoencoder,decoder", "autoencoder,denoiser"]),
    ],
)
def test_bash_completes_commands_and_options(
    words: list[str], expected: list[str], process_environment: dict[str, str], tmp_path: Path
) -> None:
    program = tmp_path / "bin" / "dpd"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.argv[0] = 'dpd'\nfrom dpd_cli.main import main\nmain()\n")
    program.chmod(0o755)
    environment = process_environment | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK, "bash", "dpd", *words],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[:-1] == expected
