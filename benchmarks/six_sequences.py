"""What the denoiser says of six sequences that anybody would type: markdown on standard output.

    python benchmarks/six_sequences.py

One item of each does not belong, never the first or the last. The denoiser judges alone, by titles; the items are told
in the order of their noise probabilities.
"""

from __future__ import annotations

from llm4dsr_cli import Cleaning, probability

SEQUENCES = (
    ("Alien", "Aliens", "The Very Hungry Caterpillar", "The Thing", "Predator"),
    ("Pride and Prejudice", "Emma", "Call of Duty 4: Modern Warfare", "Sense and Sensibility", "Jane Eyre"),
    ("Super Mario Odyssey", "The Legend of Zelda: Breath of the Wild", "Cordless Drill 18V", "Metroid Dread", "Mario"),
    ("Toy Story", "Finding Nemo", "Up", "The Texas Chain Saw Massacre", "Ratatouille"),
    ("LEGO Millennium Falcon", "LEGO X-Wing Fighter", "Maybelline Lash Mascara", "LEGO AT-AT", "LEGO Death Star"),
    ("Parker Ballpoint Pen", "Moleskine Notebook", "Pampers Baby Dry Diapers", "Post-it Notes", "Pilot G2 Gel Pens"),
)
PLANTED = (2, 2, 2, 3, 2, 2)


def main() -> None:
    print("| most suspicious | | second | | rank of the odd one |\n| --- | ---: | --- | ---: | ---: |")
    with Cleaning.load(threshold=0.5) as cleaning:
        for one, odd in zip(cleaning.score(SEQUENCES), PLANTED, strict=True):
            assert one.log_odds is not None
            chances = probability(one.log_odds).tolist()
            order = sorted(range(len(chances)), key=lambda at: -chances[at])
            cells = [cell for at in order[:2] for cell in (str(one.titles[at]), f"{chances[at]:.2f}")]
            print(f"| {' | '.join(cells)} | {order.index(odd) + 1} of {len(order)} |")


if __name__ == "__main__":
    main()
