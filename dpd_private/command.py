"""`dpd private`: scenes → codes with differential privacy of one image, and a classifier from the same release."""

from pathlib import Path
from typing import Any

from dpd_cli.commands.distill import Out, Resume, check_whether_new, log_briefly, print_signing
from dpd_cli.options import DataPlace, Json, Values, given_values, options_of, require_torch
from dpd_cli.terminal import Interrupted, print_json, stage_progress, tell
from dpd_distill.distillation import check_resumed, folder_of, request_of, resume_command, resumed_lines
from dpd_private.request import PrivateRequest, read_request
from dpd_runtime.errors import InputError
from dpd_runtime.text import counted, option_words, shown


@options_of(PrivateRequest)
def private_command(
    out: Out, data: DataPlace = None, resume: Resume = False, json_output: Json = False, *, given: Values
) -> None:
    """Distil your scenes into codes with differential privacy of one image, and a classifier with the same guarantee.

    The images give noisy statistics of their classes, once, and nothing else: by them public images are chosen and
    coloured, which become the codes. Class names, the number of images of each class and their size count as public.
    The base must not have seen the images. Nothing is evaluated or audited.

    Examples:
        dpd private scenes/ --epsilon 10 --out site.dpd
        dpd private scenes/ --epsilon 1 --public other-scenes/ --out site.dpd
        dpd private --resume --out site.dpd
    """
    asked = given_values(given, PrivateRequest)
    check_whether_new("private", data, out, resume, others=bool(asked))
    if "epsilon" not in asked and not resume:
        raise InputError("--epsilon is missing: give the epsilon of the guarantee for one image, such as --epsilon 10")
    from dpd_private.distillation import Opened, begin_privately, distil_privately, repeated_scenes

    require_torch("export", "cpu", "dp")
    if data is None:
        request = read_request(folder_of(out))
        check_resumed(request, out)
        opened = Opened(request)
        for line in resumed_lines(request):
            tell(line)
    else:
        request = request_of(PrivateRequest, data, out, asked)
        opened = Opened(request)
        request = begin_privately(request, opened)
        for line in repeated_scenes(opened.private):
            tell(line)
    log_briefly()
    try:
        with stage_progress() as stage:
            result = distil_privately(request, opened, stage, tell)
    except KeyboardInterrupt:
        raise Interrupted(resume_command(out, "private")) from None
    if json_output:
        print_json(result)
    else:
        _print(result, out)


def _print(result: dict[str, Any], out: Path) -> None:
    privacy, codes = result["privacy"], result["codes"]
    print(f"bundle        {out}  {result['bytes'] / 1e6:.1f} MB, {counted(result['codes'], 'code')} of each class")
    classifier = out.with_name(Path(result["classifier"]).name)
    print(f"classifier    {classifier}/, for dpd predict")
    print(f"privacy       epsilon {privacy['epsilon']:.6g}, delta {privacy['delta']:g}, of {privacy['unit']},")
    print("              for both together; nothing else may leave; each further run on the same images")
    print("              adds to epsilon, even if it only serves a choice between runs")
    print(f"compare       {shown(['dpd', 'generate', out, '--ipc', str(codes), '--out', 'distilled'])}, and here")
    evaluated = ["dpd", "evaluate", "distilled", "--train", "DATA", "--test", "val"]
    print(f"              {shown(evaluated, option_words(result['read_with']))};")
    print("              its figures tell about the images: keep them")
    print_signing(out, codes, f"dp:{privacy['epsilon']:g}:{privacy['delta']:g}")
    print(f"              {shown(['dpd', 'predict', str(classifier), 'IMAGES/', '--out', 'labels.csv'])}")
