from aiocluster.config.script import Script


def test_a_script_is_called_as_it_was_typed() -> None:
    """In what is printed and logged, whatever its arguments."""
    assert str(Script("./server.py", ("--config", "prod.yml"))) == "./server.py"
