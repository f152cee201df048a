"""`torusformer generate`: a trained decoder and a prompt in, text out, a token at a time."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torusformer import InputError
from torusformer.pipelines.console import (
    Outcome,
    Subparsers,
    add_p_error,
    command,
    natural,
    positive,
)
from torusformer.tables import table

MODES = ("disable", "simulate", "execute")


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "generate",
        "write on behind a prompt: in the clear, simulated, or encrypted",
        "torusformer generate ma --model runs/words --count 6 --fhe execute",
    )
    parser.add_argument("prompt", metavar="PROMPT", help='what the text begins with; "" for none')
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="what train or demo wrote"
    )
    parser.add_argument(
        "--deployment", type=Path, metavar="DIR",
        help="with --fhe execute: compiled before; default the model's own, or compile now",
    )  # fmt: skip
    parser.add_argument(
        "--trust", type=Path, metavar="KEY.pub",
        help="with --deployment: refuse one that was not signed with this key",
    )  # fmt: skip
    parser.add_argument("--count", type=positive, default=8, metavar="N", help="tokens, default 8")
    parser.add_argument("--fhe", choices=MODES, default="disable", help="default disable")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--greedy", action="store_true", help="the likeliest token, the default")
    how.add_argument("--temperature", type=float, metavar="T", help="sample: 0 to 2, 1 as trained")
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of the sampling")
    loop = parser.add_mutually_exclusive_group()
    loop.add_argument(
        "--closed-loop", dest="closed", action="store_true", default=True,
        help="the server picks each token, encrypted; the default",
    )  # fmt: skip
    loop.add_argument(
        "--open-loop", dest="closed", action="store_false",
        help="the client decrypts the logits of each step and picks",
    )  # fmt: skip
    add_p_error(parser)
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Write."""
    if args.deployment and args.fhe != "execute":
        raise InputError(f"a deployment only executes; leave it out for --fhe {args.fhe}")
    if args.trust and not args.deployment:
        raise InputError("--trust is about a signed deployment; give --deployment")
    if args.p_error and (args.deployment or args.fhe == "disable"):
        raise InputError("nothing is compiled, so --p-error changes nothing; leave it out")

    from torusformer.fhe_compile.decoding.decoder import INDEX, load_decoder
    from torusformer.fhe_compile.prices.failure import parse_p_error
    from torusformer.pipelines.training import DECODER
    from torusformer.pipelines.writing import Request, text_of, write_clear

    model = args.model if (args.model / INDEX).is_file() else args.model / DECODER
    decoder = load_decoder(model)
    if args.closed:
        decoder = decoder.with_picking()
    p_error = parse_p_error(args.p_error)
    temperature = args.temperature or 0.0
    request = Request.of(decoder, args.prompt, args.count, temperature, args.seed)
    expected = list(write_clear(decoder, request))
    made: dict[str, Any] = {}
    if args.fhe == "disable":
        written = expected
    elif args.fhe == "simulate":
        from torusformer.pipelines.writing import compile_decoder, simulated

        module = compile_decoder(decoder, p_error, simulate=True)
        written = _shown(write_clear(decoder, request, simulated(module)), args)
    else:
        written, made = _encrypted(args, decoder, request, p_error)
    identical = [c.token for c in written] == [c.token for c in expected]
    text = text_of(written, decoder.labels)
    data = {
        "prompt": args.prompt,
        "text": text,
        "fhe": args.fhe,
        "closed_loop": args.closed,
        "temperature": temperature,
        "tokens": [c.token for c in written],
        "seconds": [round(c.seconds, 3) for c in written],
        "identical": identical,
        **made,
    }
    rows = [(_visible(c.character), f"{c.seconds:.3f}") for c in written]
    said = f"{table(('token', 'seconds'), rows)}\n\n{args.prompt}{text}"
    if args.fhe != "disable":
        said += f"\n{'the same as' if identical else 'NOT the same as'} the integer program's"
    return Outcome(data, said)


def _encrypted(
    args: argparse.Namespace, decoder: Any, request: Any, p_error: float
) -> tuple[list[Any], dict[str, Any]]:
    """What both parties wrote, and what their keys took."""
    from torusformer.fhe_compile.deployment.decoder import DecoderInterface
    from torusformer.pipelines.demo import DEPLOYMENT
    from torusformer.pipelines.writing import EncryptedWriting, deployed, require_loop

    folder, own = args.deployment, args.model / DEPLOYMENT
    if folder is None and not args.p_error and own.is_dir():
        usable = DecoderInterface.load(own, "client.zip").picks == args.closed
        folder = own if usable else None
    with deployed(decoder, folder, p_error) as place:
        interface = DecoderInterface.load(place, "client.zip", args.trust)
        require_loop(interface.picks, args.closed, place)
        if dict(interface.metadata) != dict(decoder.metadata):
            raise InputError(f"{place}: is compiled from another decoder than {args.model}")
        parties = EncryptedWriting(place, args.trust)
        written = _shown(parties.write(request), args)
        made = {
            "keygen_seconds": round(parties.keygen_seconds, 1),
            "key_bytes": parties.key_bytes,
            "p_error": interface.p_error,
        }
    return written, made


def _shown(steps: Any, args: argparse.Namespace) -> list[Any]:
    """All characters, each on stderr as soon as it is there."""
    from torusformer.progress import Progress

    written: list[Any] = []
    text = args.prompt
    with Progress("write", total=args.count) as bar:
        for character in steps:
            written.append(character)
            text += _visible(character.character)
            bar.advance(f"{text!r}, {character.seconds:.1f} s a token")
    return written


def _visible(character: str) -> str:
    return "⏎" if character == "\n" else character
