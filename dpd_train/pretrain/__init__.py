"""`dpd pretrain`: a nano base from scratch."""
