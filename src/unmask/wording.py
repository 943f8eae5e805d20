"""Numbers in sentences."""


def counted(number: int, one: str, many: str = "") -> str:
    """`number` and what is counted, as "1 item" and "2,000 items"; `many` where an s is not enough."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
