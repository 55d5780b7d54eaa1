"""What a prompt has to be before a model is told it; the standard library alone."""


def check_prompt(prompt: str) -> None:
    """Looks whether a prompt says something.

    Raises:
        ValueError: it is empty, or cannot be written.
    """
    if not prompt.strip():
        raise ValueError('the prompt is empty; hint: say what should be seen, for example "a red square moves left"')
    check_text("prompt", prompt)


def check_text(name: str, text: str) -> None:
    """Looks whether a text can be written: bytes of a command line that are not UTF-8 come as lone surrogates, which cannot.

    Raises:
        ValueError: it cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        readable = text.encode(errors="replace").decode()
        raise ValueError(f"the {name} `{readable}` is not UTF-8; hint: type it again, in a terminal whose locale is UTF-8") from error
