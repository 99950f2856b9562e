"""A fitted model as a page that forecasts in the browser."""

from statecast.playground.page import write_page

__all__ = ["write_page"]
