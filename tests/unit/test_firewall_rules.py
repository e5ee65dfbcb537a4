"""How many rules and jumps a look at chains expects, against the rules themselves."""

import pytest

from cnm_core.drivers import firewall_rules as rules
from cnm_core.kernel import expressions as ex
from cnm_core.model import Policy

POLICIES = [
    Policy("blue", "blue0.7", masquerade, sources, isolated, internal, below, inner)
    for masquerade in (False, True)
    for sources in ((), (bytes(4),), (bytes(4), bytes(16)))
    for isolated in (False, True)
    for internal in (False, True)
    for below in ("", "blue0")
    for inner in ("", "vx-001001")
]


@pytest.mark.parametrize("family", rules.ADDRESS)
def test_base_chains(family: str) -> None:
    """Rules of a chain and jumps to it; what is left out has but a jump to one that is not."""
    made = rules.base_rules(family)
    jumps = {chain: ex.verdict(f"jump {chain}") for chain in made}
    uses = {
        chain: len(made[chain])
        + sum(jumps[chain] in rule for each in made.values() for rule in each)
        for chain in made
    }
    looked_at = rules.BASE_USES[family]
    assert {chain: uses[chain] for chain in looked_at} == looked_at
    for chain in made.keys() - looked_at.keys():
        assert len(made[chain]) == 1 and jumps["published"] in made[chain][0]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", rules.ADDRESS)
def test_chains_of_a_network(family: str, policy: Policy) -> None:
    """One element leads to each at least."""
    made = rules.network_rules(family, policy)
    uses = {chain: len(each) + 1 for chain, each in made.items()}
    assert uses == rules.network_uses(policy)
