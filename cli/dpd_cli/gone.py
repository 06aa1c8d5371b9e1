"""Options that went with the last release, and what does their work now. Each stays here for one release."""

SERVER = "the server of a federated tuning is dpd federate HOST:PORT"
KEY = {"--key-file": "give --key FILE", "--passphrase-file": "give --key FILE"}
REQUIRED = {
    "--require-signature": "give --require signature",
    "--require-audit": "give --require audit",
    "--require-encrypted": "give --require encrypted",
    "--require-dp": "give --require dp:EPSILON or dp:EPSILON:DELTA",
}
GONE: dict[str, dict[str, str]] = {
    **dict.fromkeys(("generate", "verify", "info"), KEY | REQUIRED),
    **dict.fromkeys(("encrypt", "decrypt"), KEY),
    "train": {
        "--crop": "give --samples foreground",
        "--segmenter": "give --samples foreground:A+B",
        "--prune": "give --samples tdds:0.7",
        "--federated": f"give --tuning federated:HOST:PORT; {SERVER}",
        "--rounds": SERVER,
        "--clients": SERVER,
        "--classes": SERVER,
        "--tls-root": f"give --tuning federated:HOST:PORT,ROOT.pem; {SERVER}",
        "--tls-certificate": SERVER,
        "--tls-key": SERVER,
    },
    "select": {"--segmenter": "give --method foreground:A+B"},
    "evaluate": {"--segmenter": "give --baselines foreground:A+B"},
    "pretrain": {
        "--features": "give dpd swimdiff DATA --out ENC",
        "--swimdiff-steps": "give dpd swimdiff DATA --out ENC --steps",
        "--swimdiff-batch": "give dpd swimdiff DATA --out ENC --batch",
        "--swimdiff-rate": "give dpd swimdiff DATA --out ENC --rate",
        "--lambda-contrast": "give dpd swimdiff DATA --out ENC --lambda-contrast",
        "--lambda-diffusion": "give dpd swimdiff DATA --out ENC --lambda-diffusion",
    },
    "distill": {
        "--dp": "give dpd private DATA --epsilon EPSILON",
        "--dp-delta": "give dpd private DATA --epsilon EPSILON --delta DELTA",
        "--public": "give dpd private DATA --epsilon EPSILON --public IMAGES",
        "--most-epsilon": "give dpd private DATA --epsilon EPSILON --most-epsilon EPSILON",
    },
}
"""Command → option → what to write instead."""
