"""Arithmetic expressions for the Countdown task: read, evaluate, write, search. Nothing is ever `eval`ed.

    sum     = product (("+" | "-") product)*
    product = factor (("*" | "/") factor)*
    factor  = number | "(" sum ")"
    number  = "0", or ASCII digits without a leading zero

No spaces, no signs. A tree is an int or a tuple (operator, left, right).
"""

import re
from fractions import Fraction
from functools import lru_cache

LONGEST = 64  # characters; it also bounds how deep the parser recurses
RANK = {"+": 1, "-": 1, "*": 2, "/": 2}
TOKEN = re.compile(r"0|[1-9][0-9]*|[-+*/()]")


def parse(text):
    """The tree of `text`; ValueError unless all of it is one expression of at most LONGEST characters."""
    if len(text) > LONGEST:
        raise ValueError(f"text: expected at most {LONGEST} characters, got {len(text)}")
    tokens = TOKEN.findall(text)
    if "".join(tokens) != text:
        raise ValueError(f"text: expected digits, + - * / and parentheses, got {text!r}")
    tree, rest = _chain(tokens + [""], 0, 1)
    if tokens[rest:]:
        raise ValueError(f"text: expected an operator or the end, got {tokens[rest]!r} in {text!r}")
    return tree


def _chain(tokens, i, rank):
    """Read a sum (rank 1) or a product (rank 2) that starts at token `i`: (tree, where it ends)."""
    operand = _factor if rank == 2 else lambda tokens, i: _chain(tokens, i, 2)
    tree, i = operand(tokens, i)
    while RANK.get(tokens[i]) == rank:
        right, end = operand(tokens, i + 1)
        tree, i = (tokens[i], tree, right), end
    return tree, i


def _factor(tokens, i):
    """Read a number or a parenthesis that starts at token `i`: (tree, where it ends)."""
    if tokens[i].isdigit():
        return int(tokens[i]), i + 1
    if tokens[i] != "(":
        raise ValueError(f"text: expected a number or '(', got {tokens[i] or 'the end'!r}")
    tree, i = _chain(tokens, i + 1, 1)
    if tokens[i] != ")":
        raise ValueError(f"text: expected ')', got {tokens[i] or 'the end'!r}")
    return tree, i + 1


def value(tree):
    """The exact value, a Fraction; ZeroDivisionError where a divisor is 0."""
    if isinstance(tree, int):
        return Fraction(tree)
    operator, left, right = tree
    a, b = value(left), value(right)
    if operator == "+":
        return a + b
    if operator == "-":
        return a - b
    return a * b if operator == "*" else a / b


def numbers(tree):
    """The numbers of a tree, from left to right."""
    return [tree] if isinstance(tree, int) else numbers(tree[1]) + numbers(tree[2])


def write(tree):
    """The text of a tree, with only the parentheses it needs."""
    if isinstance(tree, int):
        return str(tree)
    operator, left, right = tree
    a, b = write(left), write(right)
    if _rank(left) < RANK[operator]:
        a = f"({a})"
    if _rank(right) < RANK[operator] + (operator in "-/"):  # a-(b-c), a/(b*c)
        b = f"({b})"
    return a + operator + b


def _rank(tree):
    return 3 if isinstance(tree, int) else RANK[tree[0]]


def reachable(numbers):
    """{value: tree} for every value that uses each of `numbers` (a sorted tuple) exactly once.

    Every step on the way is a whole number above 0, as in the television game.
    """
    if len(numbers) == 1:
        return {numbers[0]: numbers[0]}
    found = {}
    for left, right in _splits(numbers):
        for a, x in _part(left).items():
            for b, y in _part(right).items():
                for operator, result in (("+", a + b), ("-", a - b), ("*", a * b)):
                    if result > 0:
                        found.setdefault(result, (operator, x, y))
                if a % b == 0:
                    found.setdefault(a // b, ("/", x, y))
    return found


_part = lru_cache(maxsize=4096)(reachable)  # parts return often, whole problems hardly ever


def _splits(numbers):
    """Both orders of every way to part `numbers` in two."""
    for mask in range(1, 2 ** len(numbers) - 1):
        left = tuple(n for i, n in enumerate(numbers) if mask >> i & 1)
        yield left, tuple(n for i, n in enumerate(numbers) if not mask >> i & 1)


@lru_cache(maxsize=16384)
def needing_all(numbers, largest):
    """Sorted values up to `largest` that all `numbers` (a sorted tuple) reach but no fewer of them do."""
    fewer = {value for left, _ in _splits(numbers) for value in _part(left)}
    return sorted(value for value in reachable(numbers) if value <= largest and value not in fewer)
