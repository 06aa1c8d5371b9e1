"""Handing a bundle over: signing, encryption, changed copies, and what a site requires."""
