"""Handing over a bundle: signing, encryption, changed copies, and the requirements of a site."""
