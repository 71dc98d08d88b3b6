"""Ranking quality on collections in BEIR layout, beside baselines."""
