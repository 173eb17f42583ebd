"""HTML and SVG as text in which nothing that a run or a user named can become markup."""
from html import escape


class Markup(str):
    """Text that is markup already. Any other text is escaped where it is put into an element."""


def element(tag, /, *content, **attributes):
    """<tag attribute="...">content</tag>, with text and attributes escaped.

    Args:
        content: `Markup`, text, numbers, or None for nothing.
        attributes: `class_` is class, and _ in names is -; None leaves the attribute out.
    """
    given = {k.rstrip("_").replace("_", "-"): v for k, v in attributes.items() if v is not None}
    written = "".join(f' {name}="{escape(str(value))}"' for name, value in given.items())
    return Markup(f"<{tag}{written}>{join(content)}</{tag}>")


def void(tag, /, **attributes):
    """An element of HTML that has no content and no end, such as img."""
    return Markup(str(element(tag, **attributes))[: -len(f"</{tag}>")])


def join(parts):
    """Several pieces of content as one."""
    given = (part for part in parts if part is not None)
    return Markup("".join(p if isinstance(p, Markup) else escape(str(p)) for p in given))


def section(title, *content):
    """A part of the page with its heading."""
    return element("section", element("h2", title), *content)


def table(head, rows):
    """A table of a row of names and rows of content; numbers stand on the right."""

    def cell(value):
        number = isinstance(value, (int, float)) or str(value)[:1].isdigit()
        return element("td", value, class_="number" if number else None)

    names = element("thead", element("tr", *(element("th", name) for name in head))) if head else None
    body = element("tbody", *(element("tr", *map(cell, row)) for row in rows))
    return element("div", element("table", names, body), class_="scroll")
