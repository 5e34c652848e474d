"""Optimizers as people write them, one of each kind that a trainer has to cope with."""

import random
from collections import deque

import torch
from torch.optim import SGD, Optimizer


class Plain(Optimizer):
    """No annotations, positional-only settings, an attribute that looks like ours but is a str."""

    def __init__(self, params, lr, factor=1.0, /, *, sign=1, **ignored):
        super().__init__(params, {"lr": lr})
        self.factor, self.sign = factor, sign
        self.step_size = "unknown"
        self.grad_norm = 0.0

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad * (group["lr"] * self.factor * self.sign))
                    self.grad_norm = float(p.grad.norm())


class Moving(Plain):
    """Puts its weights elsewhere."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = p.data - p.grad * group["lr"]


class Anything(SGD):
    """Says nothing of what it takes."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class Named(SGD):
    """Wants names beside the parameters."""

    def __init__(self, *, named_parameters, lr):
        pairs = list(named_parameters)
        assert all(isinstance(name, str) for name, _ in pairs)
        super().__init__([p for _, p in pairs], lr=lr)


class OfModel(SGD):
    """Wants the model."""

    def __init__(self, model: torch.nn.Module, lr=0.1):
        super().__init__(model.parameters(), lr=lr)


class Hooked(OfModel):
    """Steps in the backward pass, as LOMO does, which fails in the end."""

    def __init__(self, model: torch.nn.Module, lr=0.1, count=5):
        super().__init__(model, lr)
        self.count = count
        next(model.parameters()).register_hook(self.fail)

    def fail(self, grad):
        self.count -= 1
        if self.count < 0:
            raise ArithmeticError("no more")


class Careless(SGD):
    """Fails where it has switched gradients off."""

    def step(self, closure=None):
        torch.set_grad_enabled(False)
        raise ArithmeticError("no more")


class Averaged(Optimizer):
    """Steps at one point, is judged at another; keeps its mode where no checkpoint looks."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})
        self.at_average = True
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["average"] = p.detach().clone()

    def train(self):
        if self.at_average:
            self._swap(1 / 3)
        self.at_average = False

    def eval(self):
        if not self.at_average:
            self._swap(1.5)
        self.at_average = True

    @torch.no_grad()
    def _swap(self, factor):
        """There and back does not give the same bits."""
        for group in self.param_groups:
            for p in group["params"]:
                if "z" in self.state[p]:
                    p.lerp_(self.state[p]["z"], factor if factor < 1 else -0.5)

    @torch.no_grad()
    def step(self, closure=None):
        if self.at_average:
            raise RuntimeError("call train() first")
        for group in self.param_groups:
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.clone())
                z.sub_(group["lr"] * p.grad)
                p.lerp_(z, 0.3)


class PassingOn(SGD):
    """Passes the change of mode on to what it wraps, which has none."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)
        self.inner = SGD(self.param_groups, lr=lr)

    def train(self):
        self.inner.train()

    def eval(self):
        self.inner.eval()


class Sharpness(Optimizer):
    """Takes a second gradient, at weights nearby; makes its own instance of what it wraps."""

    __slots__ = ("base",)

    def __init__(self, params, base_optimizer, rho=0.05, **kwargs):
        super().__init__(params, {"rho": rho, **kwargs})
        self.base = base_optimizer(self.param_groups, **kwargs)
        assert isinstance(self.base, Optimizer)
        self.state = self.base.state

    @torch.no_grad()
    def step(self, closure=None):
        if closure is None:
            raise ValueError("I need a closure")
        moves = [(p, group["rho"] * p.grad) for group in self.param_groups for p in group["params"]]
        for p, move in moves:
            p.add_(move)
        loss = closure()
        for p, move in moves:
            p.sub_(move)
        self.base.step()
        return loss


class Lookahead(Optimizer):
    """Wraps an instance, in the argument that is called as our own key is."""

    def __init__(self, optimizer, k=2):
        self.optimizer, self.k = optimizer, k
        self.param_groups, self.defaults = optimizer.param_groups, optimizer.defaults
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        self.count = 0

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self):
        return {"fast": self.optimizer.state_dict(), "slow": self.slow, "count": self.count}

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state["fast"])
        self.param_groups = self.optimizer.param_groups
        self.slow, self.count = state["slow"], state["count"]

    @torch.no_grad()
    def step(self, closure=None):
        self.optimizer.step()
        self.count += 1
        if self.count % self.k == 0:
            fast = [p for group in self.param_groups for p in group["params"]]
            for p, slow in zip(fast, self.slow, strict=True):
                slow.lerp_(p, 0.5)
                p.copy_(slow)


class Curvature(Optimizer):
    """Differentiates the gradient once more."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        params = [p for group in self.param_groups for p in group["params"]]
        grads = [p.grad for p in params]
        if grads[0].grad_fn is None:
            raise RuntimeError("backward with create_graph=True is needed")
        products = torch.autograd.grad(grads, params, [g.detach() for g in grads])
        with torch.no_grad():
            for p, grad, product in zip(params, grads, products, strict=True):
                p.sub_(self.param_groups[0]["lr"] * grad / (1 + product.abs()))


class Matrices(Optimizer):
    """Its groups say how they are to be treated, and nothing else may be in them."""

    def __init__(self, param_groups):
        for group in param_groups:
            assert set(group) == {"params", "use_muon", "lr"}, "a group needs use_muon and lr"
        super().__init__(param_groups, {})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                step = torch.sign(p.grad) if group["use_muon"] else p.grad
                p.sub_(group["lr"] * step)


class Only2D(SGD):
    """Takes matrices only."""

    def __init__(self, params, lr=0.1):
        params = list(params)
        if any(p.ndim != 2 for p in params):
            raise ValueError("2-D parameters only")
        super().__init__(params, lr=lr)


class Viewing(SGD):
    """Fails on weights that are not contiguous."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.view(-1)
        super().step()


class Remembering(SGD):
    """Keeps a deque in its state."""

    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p].setdefault("seen", deque(maxlen=3)).append(p.grad.clone())


class Forgetful(SGD):
    """Keeps what matters where its state_dict does not look."""

    count = 0

    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            group["lr"] = 0.1 / self.count
        super().step()


class Stateless(SGD):
    """Its state_dict fails, as of wrappers written for an older torch."""

    def state_dict(self):
        raise AttributeError("no hooks")


class Dicing(SGD):
    """Draws from Python's generator, which no checkpoint has."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = 0.05 * random.random()
        super().step()


class Idle(SGD):
    """Does nothing in `step`: something else has to be called."""

    def step(self, closure=None):
        return None


class Late(SGD):
    """Acts only after ten steps."""

    def step(self, closure=None):
        state = self.state[self.param_groups[0]["params"][0]]
        state["step"] = state.get("step", 0) + 1
        if state["step"] > 10:
            super().step()


class Failing(SGD):
    """Raises at its eleventh step, with what a terminal would colour."""

    count = 0

    def step(self, closure=None):
        type(self).count += 1
        if type(self).count > self.defaults.get("after", 10):
            raise ArithmeticError("\x1b[31mno more\x1b[0m\nsee the manual")
        super().step()


class Quitting(SGD):
    """Ends the process, as a script does, with its eleventh step."""

    count = 0
    kind: type[BaseException] = SystemExit

    def step(self, closure=None):
        type(self).count += 1
        if type(self).count > 10:
            raise self.kind(3)
        super().step()


class Hungry(SGD):
    """Wants more memory than there is."""

    def step(self, closure=None):
        torch.empty(2**55)


def factory(params, lr=0.1):
    """Not a class, but it makes an optimizer."""
    return SGD(params, lr=lr)


def useless(params):
    """Makes something else."""
    return list(params)
