"""The command, as `gentrain` and as `python -m gentrain`. No import stands before `exit_on_ctrl_c`."""

from gentrain.runtime.startup import exit_on_ctrl_c


def main() -> None:
    exit_on_ctrl_c()
    from gentrain.cli import main as command  # takes the first half second

    command()


if __name__ == "__main__":
    main()
