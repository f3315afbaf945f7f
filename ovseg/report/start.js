// The report's page begins.

takeImages();
startTheme();
showHeader();
showStatistics();
startGallery();
startDetail();
setOpacity(state.opacity);
showGallery();
followAddress();
