"""Thin programs, one a rule: parse, call one library function."""
