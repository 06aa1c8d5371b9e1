"""What makes a bundle one that can be handed over: signatures, trusted keys, encryption, changed copies (DESIGN §7)."""
