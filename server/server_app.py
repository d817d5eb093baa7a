"""The federation as a Flower ServerApp: ``flwr run .`` runs what ``fedsim run`` runs, with the same numbers.

Every SuperNode that is connected when the run starts takes the place of the client it says it is (see
``clients/simulated/client_app.py``); all other clients are simulated in this process.
"""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedsim import run
from fedsim.config import from_flower
from fedsim.recording import Row

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that ``--run-config 'settings="..."'`` describes."""
    record = run(from_flower(context.run_config), inner=grid, listen=_say)
    print(f"test accuracy {record.summary['test_accuracy']:.2%}, folder {record.folder.resolve()}")


def _say(row: Row) -> None:
    accuracy = "not tested" if row["test_accuracy"] is None else f"accuracy {row['test_accuracy']:.2%}"
    print(f"round {row['round']}: {accuracy}", flush=True)
