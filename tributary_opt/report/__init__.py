"""Texts and tables for people."""
