"""mctx's MuZero search on the model of the row mcts_search: reads [batch, simulations], answers [wall, cpu] seconds."""

import json
import sys
import time
from functools import cache

import jax
import jax.numpy as jnp
import mctx

ACTIONS, STATE = 4, 8
W = jax.random.normal(jax.random.PRNGKey(0), (ACTIONS, STATE, STATE)) * 0.3


def recurrent(params, rng, action, embedding):
    after = jnp.tanh(jnp.einsum("bi,bij->bj", embedding, W[action]))
    output = mctx.RecurrentFnOutput(
        reward=after[:, 0],
        discount=jnp.full(embedding.shape[:1], 0.99),
        prior_logits=after[:, :ACTIONS],
        value=after.sum(-1),
    )
    return output, after


@cache
def search(batch, simulations):
    """The compiled search and its start."""
    start = jax.random.normal(jax.random.PRNGKey(1), (batch, STATE))

    def run(rng, embedding):
        root = mctx.RootFnOutput(prior_logits=embedding[:, :ACTIONS], value=embedding.sum(-1), embedding=embedding)
        return mctx.muzero_policy(
            params=(),
            rng_key=rng,
            root=root,
            recurrent_fn=recurrent,
            num_simulations=simulations,
            dirichlet_fraction=0.0,
        ).action

    compiled = jax.jit(run)
    compiled(jax.random.PRNGKey(2), start).block_until_ready()
    return compiled, start


for line in sys.stdin:
    compiled, start = search(*json.loads(line))
    wall, cpu = time.perf_counter(), time.process_time()
    compiled(jax.random.PRNGKey(2), start).block_until_ready()
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
