"""Times: what a log's column of times says, as numbers that grow."""

from __future__ import annotations

from datetime import datetime, timezone


def time_of(text: str) -> float:
    """A number as it is, or an ISO 8601 date as seconds since 1970 (without a zone, UTC).

    Float64: in float32 RecBole's MovieLens would be out of order.

    Raises:
        ValueError: it is neither, or no finite number.
    """
    try:
        number = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    if number - number != 0:
        raise ValueError(text)
    return number
