"""Texts that are markup somewhere: in HTML, in rich, in matplotlib's formulas, in terminals and shells."""

HTML = '<img src=x onerror="window.hacked=1">'
SCRIPT = "\"'></td></title></style><script>window.hacked=1</script>"
CLOSING = "</pre></code>{{ 7 * 7 }}{% raw %}&lt;b&gt;"
FORMULA = "$\\frac{$ _x"
STYLE = "[/bold] [none] :smile:"
OBEYED = "\x1b]0;title\x07\x1b[2J\x9b31m\u202eright to left"
SHELL = "a b; $(touch evil) `touch evil` 'x"
UNDERSCORE = "_nolegend_"
ALL = (HTML, SCRIPT, CLOSING, FORMULA, STYLE, OBEYED, SHELL, UNDERSCORE)
