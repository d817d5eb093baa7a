"""A simulated phone as a Flower ClientApp: the training of ``fedsim run`` on a machine that joins as a SuperNode.

Start the SuperNode with ``--node-config "partition-id=7"`` to be client 7 of the federation that the server's
``flwr run`` describes: the config travels with the run, the data are dealt here, and what leaves is weights, losses
(none where the phone adds noise) and how many examples it holds.
"""

import logging
from collections.abc import Callable
from functools import cache

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.config import ConfigError, RunConfig, from_flower
from fedsim.federation import Federation, set_up, with_plan
from fedsim.messages import read_orders, write_replies
from fedsim.simulation.engines import Engine, open_engine
from fedsim.simulation.private import own_training
from fedsim.updates import Orders, Updates

log = logging.getLogger("fedsim")

app = ClientApp()


@app.query()
def which_client(message: Message, context: Context) -> Message:
    """Says which client this node is."""
    return Message(RecordDict({"config": ConfigRecord({"client": _client(context)})}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round of local training, by the same code as in the simulation."""
    return _reply(message, context, lambda federation, engine: own_training(federation.plan, engine))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Loss and accuracy of the model on this client's own test examples."""
    return _reply(message, context, lambda federation, engine: engine.evaluate)


def _reply(
    message: Message, context: Context, choose: Callable[[Federation, Engine], Callable[[Orders], Updates]]
) -> Message:
    client, federation = _client(context), _federation(from_flower(context.run_config).model_dump_json())
    ((orders, _),) = read_orders([message], np.array([client], np.int64))
    with open_engine(federation) as engine:
        updates = choose(federation, engine)(orders)
    for failed in updates.failures:  # an error reply has no room for the traceback
        log.error("client %d, round %d, %s:\n%s", failed.client, failed.round, failed.stage, failed.traceback)
    return write_replies([message], [client], updates)[0]


@cache
def _federation(config: str) -> Federation:
    """The federation of a config, which the process builds once; JSON, because a cache wants a plain key."""
    return with_plan(set_up(RunConfig.model_validate_json(config)))


def _client(context: Context) -> int:
    clients = from_flower(context.run_config).federation.clients
    given = context.node_config.get("partition-id")
    if not isinstance(given, int) or not 0 <= given < clients:
        raise ConfigError(
            f"--node-config partition-id={given}: must be a client, 0 to {clients - 1} in this federation"
        )
    return given
