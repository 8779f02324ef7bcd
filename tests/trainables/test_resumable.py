"""What a worker is told of a trial that an earlier start left unfinished."""

from pathlib import Path

from sleep_tune.data.token_store import Prepared
from sleep_tune.study.console import Console
from sleep_tune.study.ledger import Ledger
from sleep_tune.study.spec import Study, load_spec
from trainables.proposals import Proposals
from trainables.resumable import Desk, LedgerSearcher

SPEC = {"base": ["tiny", "epochs"], "always": ["baseline"], "seeds": [1, 2]}
NOWHERE = Path("nowhere")
PREPARED = Prepared("corpus", "tokenizer", NOWHERE, NOWHERE, NOWHERE, (), 50_000, None)


def test_an_unfinished_trial_goes_on_with_what_the_study_is_given_now(tmp_path: Path) -> None:
    study = Study("test", "", load_spec(SPEC))
    with Ledger(tmp_path) as ledger:
        ledger.append("opened", spec={}, versions={}, precision="fp32", corpus_digest="corpus", tokenizer_digest="tokenizer")
        begun = Proposals(study, ledger.view, "corpus").next()
        assert begun is not None
        fields = {"trial": begun.trial, "configuration": begun.configuration, "seed": 1, "origin": begun.origin}
        ledger.append("proposed", config=begun.config.model_dump(mode="json"), **fields)
        resumed = study.with_set({"resources.cpus": 2.0, "evaluation.data": "/moved", "tracking.wandb": "off"})
        desk = Desk(resumed, PREPARED, tmp_path, ledger, Console("test", 4, resumed.budget_words, tmp_path))
        assignment = LedgerSearcher(desk, 1).suggest("1")["assignment"]
        assert desk.label(ledger.view.trials[begun.trial]) == "plain epochs, warmup 0.187"
    assert assignment.trial == begun.trial
    assert assignment.config.resources.cpus == 2.0
    assert assignment.config.evaluation.data == "/moved"
    assert assignment.config.tracking.wandb == "off"
    assert assignment.config.optimizer == begun.config.optimizer
