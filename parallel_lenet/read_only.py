"""The attributes of a Coordinator are read-only: what to do instead of assigning one."""

import inspect


def advice(coordinator: type, name: str) -> str:
    """What to do instead of assigning an attribute of a coordinator."""
    settings = inspect.signature(coordinator).parameters
    if name == "n_workers":
        return "n_workers of a Coordinator is read-only: call resize(n_workers) for another number of workers"
    if name == "model":
        return "model of a Coordinator is read-only: create another one, Coordinator(model, optimizer)"
    if name == "parameters":
        remedy = "create another one, Coordinator(model, optimizer, parameters=...)"
    elif name == "optimizer":
        remedy = "create another one, Coordinator(model, optimizer, parameters=coordinator.parameters)"
    elif name in settings:
        remedy = f"create another one, Coordinator(model, optimizer, {name}=..., parameters=coordinator.parameters)"
    elif hasattr(coordinator, name) or name == "leaf":
        return f"{name} of a Coordinator is read-only: fit, iterate and load change what it trains"
    else:
        return (
            f"a Coordinator has no attribute {name}: give settings to Coordinator(...), such as batch_size, or to its "
            "optimizer, such as learning_rate"
        )
    return f"{name} of a Coordinator is read-only: {remedy}"
