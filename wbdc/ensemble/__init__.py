"""Ensembles: blend weights, class multipliers, scores, and the best blend within a time limit."""
