"""Whether a function can be called as another one: what is promised of a method, and what is found."""

from __future__ import annotations

from inspect import Parameter, Signature


def readable(signature: Signature) -> str:
    """Write parameter names and defaults; annotations are left out, they are not compared."""
    parameters = [one.replace(annotation=Parameter.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=Signature.empty))


def without_self(signature: Signature) -> Signature:
    """Leave out the first parameter, where it is given by position."""
    parameters = list(signature.parameters.values())
    by_position = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return (
        signature.replace(parameters=parameters[1:]) if parameters and parameters[0].kind in by_position else signature
    )


def accepts(found: Signature, promised: Signature) -> bool:
    """Whether a function can be called as promised, by position and by name.

    The promised parameters come first, in order, by the same names; one that may be left out has a default
    here too; further ones have defaults.  `*args, **kwargs` stands for any number of them.
    """
    parameters = found.parameters.values()
    variadic = {one.kind for one in parameters} >= {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
    plain = [one for one in parameters if one.kind is Parameter.POSITIONAL_OR_KEYWORD]
    if any(one.kind is Parameter.POSITIONAL_ONLY for one in parameters):
        return False
    for index, wanted in enumerate(promised.parameters.values()):
        if index >= len(plain):
            if variadic:
                break
            return False
        has = plain[index]
        if has.name != wanted.name or (wanted.default is not Parameter.empty and has.default is Parameter.empty):
            return False
    further = [*plain[len(promised.parameters) :], *(one for one in parameters if one.kind is Parameter.KEYWORD_ONLY)]
    return all(one.default is not Parameter.empty for one in further)
