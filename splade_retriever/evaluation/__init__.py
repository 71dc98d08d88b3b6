"""Ranking quality of models on collections in BEIR layout, compared with baselines."""
