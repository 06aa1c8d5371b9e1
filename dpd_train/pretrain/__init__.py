"""`dpd pretrain`: train a nano base from scratch."""
